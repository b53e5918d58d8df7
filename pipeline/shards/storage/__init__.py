"""Tars that lie in object storage: where they are, how they are read from there, and what is kept of them here."""
