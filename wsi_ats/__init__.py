"""Attention sampling for whole-slide images."""
