"""Vision-language pre-training through textual augmentation."""
