"""OME-Zarr, read directly."""
