"""Array slides, real slides and synthetic ones behind one protocol."""
