"""From what people have on disk to batches."""
