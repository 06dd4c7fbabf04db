"""The training loop and what it needs; it knows no objective, no model and no data."""
