"""Copies of unaligned values: the bits of a product of matrices must not depend on the address of a payload."""

import torch

# The alignment of torch's own memory.
_ALIGNMENT = 64


def aligned(values: torch.Tensor) -> torch.Tensor:
    """Return contiguous values, copied if their address is not a multiple of the alignment of torch's own memory.

    On a CPU, products of matrices add in an order that depends on the alignment of their operands.
    """
    return values.clone() if values.is_cpu and values.data_ptr() % _ALIGNMENT else values
