"""How good the generated programs are: after each stage, on worse inputs, on real models."""
