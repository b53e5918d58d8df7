"""Programs as scripts of CAD libraries for Python, and back."""
