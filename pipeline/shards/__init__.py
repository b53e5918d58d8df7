"""WebDataset shards: written reproducibly, described by a manifest, read in any order."""
