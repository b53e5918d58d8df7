"""Parts that the project makes itself, and words for them."""
