"""Objective `geometry`: a curriculum stage that learns from what the programs that it writes are worth."""
