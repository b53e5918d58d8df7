"""The ``train`` stages: the loop, its processes, its states and its mirror in W&B."""
