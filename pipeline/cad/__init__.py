"""CAD programs and geometry: reading, tokens, solids, points, views. Imports no torch."""
