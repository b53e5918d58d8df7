"""From a checkpoint and a prompt to a program."""
