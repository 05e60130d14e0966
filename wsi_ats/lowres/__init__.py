"""The slide at low resolution: its view, its tissue, the grid that attention is about."""
