"""Evaluation: what a model's answers are worth on slides of known truth, and which of two models is better."""
