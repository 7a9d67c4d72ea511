"""Metrics over all cases of an evaluation: of rankings, stars, pictures and texts, and of each task."""
