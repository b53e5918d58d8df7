"""Encoders and a language model that the project pretrains itself on synthetic parts, and ships."""
