"""params.yaml: its sections, presets, and what they say of memory and of the models resolved."""
