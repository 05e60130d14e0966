"""Slides of all other formats, read by OpenSlide."""
