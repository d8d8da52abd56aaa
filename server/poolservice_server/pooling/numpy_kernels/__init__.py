"""The operators on numpy arrays, on the CPU, where that is faster than torch."""
