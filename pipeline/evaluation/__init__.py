"""How good the generated programs are, and the report that shows it."""
