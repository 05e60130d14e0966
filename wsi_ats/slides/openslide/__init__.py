"""All other formats, read by OpenSlide."""
