"""What the curriculum shows, step by step, and how it went: training without a model."""
