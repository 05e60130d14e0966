"""Pretrained tile encoders: where their weights come from, what they expect of a tile, what is trained of them."""
