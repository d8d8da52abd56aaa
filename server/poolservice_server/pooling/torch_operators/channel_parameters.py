"""Parameters with one number for each channel."""

from collections.abc import Callable

import torch

from poolservice_server.kernel_thresholds import PARAMETER_GROUPS
from poolservice_server.pooling.torch_operators.exponential_sums import PerPlane

#: A parameter of a spec: a number for all channels, or one for each.
Numbers = float | tuple[float, ...]


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
    if len(numbers) <= PARAMETER_GROUPS:
        groups = values.unflatten(1, (len(numbers), -1)).unbind(1)
        results = [pool(group.flatten(0, 1), number) for group, number in zip(groups, numbers, strict=True)]
        return torch.cat([result.view(samples, -1, *result.shape[1:]) for result in results], 1)
    each = torch.tensor(numbers, dtype=values.dtype, device=values.device)
    each = each.repeat_interleave(channels // len(numbers)).repeat(samples)
    pooled = pool(values.flatten(0, 1), each.view(-1, *(1,) * (values.ndim - 2)))
    return pooled.view(samples, channels, *pooled.shape[1:])
