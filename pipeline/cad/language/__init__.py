"""The CAD language: programs, their tokens, the grammar, and the codec between them."""
