"""The operators on torch tensors, for every device."""
