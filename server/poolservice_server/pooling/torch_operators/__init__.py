"""The operators on torch tensors, on any device."""
