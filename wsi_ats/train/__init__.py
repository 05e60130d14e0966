"""Training: from a manifest to a model folder."""
