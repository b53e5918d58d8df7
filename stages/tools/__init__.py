"""Commands that are no pipeline stage."""
