"""Slides written as OME-Zarr."""
