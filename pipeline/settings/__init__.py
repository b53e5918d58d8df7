"""params.yaml: its sections, and what they say of places, of memory and of the models resolved."""
