"""What people do with a trained model: match, search, proofread, clean, write negatives, serve."""
