"""The ``report`` stage: one page, its charts and pictures."""
