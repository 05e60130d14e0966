"""Tasks, what a model is asked of a slide: one file a kind, from the manifest's cells to the metric values."""
