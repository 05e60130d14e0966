"""The demo: everything from slides to heatmaps in a few minutes, without any data."""
