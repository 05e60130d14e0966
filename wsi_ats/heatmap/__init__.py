"""Predictions as pictures."""
