"""Powers whose bits do not depend on where a value lies."""

import torch

# Exponents for which torch multiplies or takes a square root, so that a value's bits do not depend on its position.
_ARITHMETIC_EXPONENTS = (0.5, 1.0, 2.0, 3.0)
# The alignment is a multiple of the number of values in the widest vector instructions. A chunk is a multiple of the
# alignment, and so short that torch does not split it among its threads.
_POWER_ALIGNMENT = 64
_POWER_CHUNK = 2**15


def power(values: torch.Tensor, exponent: float) -> torch.Tensor:
    """Raise each value to a power, with bits that do not depend on its position.

    torch's CPU kernel computes whole vectors of values, and the remaining values one by one with other last bits. This
    function therefore pads the values to whole vectors, in chunks that torch does not split among its threads.
    """
    if not values.is_cpu or exponent in _ARITHMETIC_EXPONENTS:
        return values.pow(exponent)
    count = values.numel()
    padded = values.new_ones(count + -count % _POWER_ALIGNMENT)
    padded[:count] = values.reshape(-1)
    for chunk in padded.split(_POWER_CHUNK):
        chunk.pow_(exponent)
    return padded[:count].view(values.shape)
