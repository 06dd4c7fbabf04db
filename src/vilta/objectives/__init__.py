"""What pre-training minimises, as pure functions of tensors."""
