"""One file a verb, each read top to bottom."""
