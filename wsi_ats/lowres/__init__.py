"""Slides at low resolution: view, tissue, and the grid that attention is about."""
