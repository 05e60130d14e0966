"""Conversion: slides written as OME-Zarr."""
