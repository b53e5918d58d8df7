"""The stages before training: dataset, corpus, geometry, features."""
