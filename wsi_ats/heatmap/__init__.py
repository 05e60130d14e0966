"""Heatmaps: predictions as pictures."""
