"""Writing image-text pairs as shards, and the shards' own layout."""
