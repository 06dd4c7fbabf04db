"""The training loop and what it needs; independent of objectives, models and data."""
