"""Slides that are made, with what is in them known."""
