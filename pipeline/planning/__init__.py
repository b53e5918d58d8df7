"""Before a run: presets, what it will need, and studies of many."""
