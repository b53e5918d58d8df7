"""Curriculum training: plan, batches, loop, checkpoints, tracking."""
