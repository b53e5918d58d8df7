"""The trained model: projectors, CAD vocabulary, language model."""
