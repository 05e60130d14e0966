"""Tiled TIFF and its families, read directly."""
