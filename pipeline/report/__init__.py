"""The ``report`` stage, and the table of a study."""
