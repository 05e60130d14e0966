"""Batches of slides: which they are, one job each, results on disk that survive a kill, tables at the end."""
