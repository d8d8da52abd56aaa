"""Parameters with one number for each channel."""

from collections.abc import Callable

import torch

from poolservice_server.pooling.torch_operators.exponential_sums import PerPlane

#: A parameter of a spec: a number for all channels, or one for each.
Numbers = float | tuple[float, ...]

# Up to so many numbers, the channels of each are pooled by themselves. A single exponent such as 2 is a product, and
# takes a fraction of the time of one exponent per value.
_MAX_GROUPS = 4


def with_numbers(
    values: torch.Tensor, numbers: Numbers, pool: Callable[[torch.Tensor, PerPlane], torch.Tensor]
) -> torch.Tensor:
    """Return what `pool` makes of planes and a parameter.

    Args:
        values: planes (P, *spatial); with several numbers samples (N, C, *spatial).
        numbers: one number, or one for each of C / n consecutive channels, where n is how many there are.
        pool: takes planes and one number, or one for each plane: (P, 1, ...).
    """
    if isinstance(numbers, float):
        return pool(values, numbers)
    samples, channels = values.shape[:2]
    if len(numbers) <= _MAX_GROUPS:
        groups = values.unflatten(1, (len(numbers), -1)).unbind(1)
        results = [pool(group.flatten(0, 1), number) for group, number in zip(groups, numbers, strict=True)]
        return torch.cat([result.view(samples, -1, *result.shape[1:]) for result in results], 1)
    each = torch.tensor(numbers, dtype=values.dtype, device=values.device)
    each = each.repeat_interleave(channels // len(numbers)).repeat(samples)
    pooled = pool(values.flatten(0, 1), each.view(-1, *(1,) * (values.ndim - 2)))
    return pooled.view(samples, channels, *pooled.shape[1:])
