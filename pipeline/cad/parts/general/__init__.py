"""Parts of no family: random sketches and random sequences, as broad as what people draw."""
