"""The operators on numpy arrays: kernels for the CPU, wherever they are faster than torch's."""
