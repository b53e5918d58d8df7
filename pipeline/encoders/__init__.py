"""The frozen encoders. Training never imports them."""
