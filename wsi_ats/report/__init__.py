"""Report: one page that says what a model is, what its answers are worth, on which slides, and what they rest on."""
