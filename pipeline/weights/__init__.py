"""The ``models`` stage: weights from wherever they are, in folders that hold all that later pipeline stages read."""
