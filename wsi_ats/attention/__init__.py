"""Attention: from the low-resolution view to the probabilities that tiles are drawn from."""
