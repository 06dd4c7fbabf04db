"""The losses of pre-training and what they need, as pure functions of tensors."""
