"""The ``corpus`` stage: models to captions and program tokens."""
