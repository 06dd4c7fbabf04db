"""Image-text pairs: readers, packing, transforms, collating, loading, and the built-in scenes."""
