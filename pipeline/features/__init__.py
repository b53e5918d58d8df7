"""The ``features`` stage: points and views to embeddings of frozen encoders, checked and mended."""
