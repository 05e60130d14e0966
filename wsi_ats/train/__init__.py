"""From a manifest to a model folder."""
