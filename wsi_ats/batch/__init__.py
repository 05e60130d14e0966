"""Many slides: which they are, one task each, results on disk that survive a kill, tables at the end."""
