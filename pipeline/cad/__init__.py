"""CAD without tensors: programs and their tokens, solids, parts that the project makes, files of other systems."""
