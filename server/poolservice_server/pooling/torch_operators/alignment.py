"""Addresses at which the bits of a product of matrices do not depend on where a payload lies in its message."""

import torch

# The alignment of torch's own memory.
_ALIGNMENT = 64


def aligned(values: torch.Tensor) -> torch.Tensor:
    """Return contiguous values, copied if they do not lie as torch's own memory does.

    On a CPU, products of matrices add in an order that depends on the alignment of their operands.
    """
    return values.clone() if values.is_cpu and values.data_ptr() % _ALIGNMENT else values
