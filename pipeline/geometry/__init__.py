"""The ``geometry`` stage: models to points and views."""
