"""What a model is asked of a slide: one file a kind of task, from the manifest's cells to the figures of merit."""
