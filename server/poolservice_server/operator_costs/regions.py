"""The costs of the operators that pool regions, strips and descriptors: see `cost.Cost`.

The numbers are measured: steps are nanoseconds on one core. Each sample is pooled by itself, so calls into torch count
for each of them.
"""

import math
from collections.abc import Sequence
from typing import Any

from poolservice_server.kernel_thresholds import TILE_MAX_ADDED
from poolservice_server.operator_costs.cost import Cost, Sample

# A call into torch.
_CALL = 12_000.0
# The mean of a long tile of all channels.
_LONG_TILE = 4_000.0


def per_sample(fixed: float, steps: float, floats: float = 0.0) -> Cost:
    """Return the cost of so many steps for a sample, and so many steps and floats for each of its values."""

    def cost(_spec: Any, sample: Sample) -> tuple[float, float]:
        return fixed + steps * sample.values, floats * sample.values

    return cost


def channel_sums(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of spoc. The center prior is a product, for which values are copied if they are not aligned."""
    if not spec.center_prior:
        return per_sample(10_000, 0.1)(spec, sample)
    positions = math.prod(sample.spatial)
    return 10_000 + 0.1 * sample.values + 4 * positions, sample.values + 2.0 * positions


def channels_and_positions(_spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of crow, whose weights of the positions are powers."""
    positions = math.prod(sample.spatial)
    return 80_000 + 0.8 * sample.values + 10 * positions, 2.2 * sample.values + 3 * positions


def region_grid(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of rmac: the channels become the last dimension, and each scale has maxima of all rows."""
    levels = spec.levels
    largest = levels * (levels + 6) * sample.channels
    steps = (0.8 + 0.6 * levels) * sample.values + levels * largest
    return steps + _CALL * (4 + levels * (levels + 1)), 1.3 * sample.values + 3 * largest


def largest_region(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of scda: the component takes up to so many rounds over the positions."""
    positions = math.prod(sample.spatial)
    rounds = math.log2(positions + 1)
    return 30 * _CALL + 25 * rounds * positions + sample.values, sample.values + 15 * positions


def corner(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of corner_pool: each round doubles the reach of the maxima."""
    height, width = sample.spatial
    sizes = [height if edge in ("top", "bottom") else width for edge in spec.mode.split("_")]
    rounds = sum(math.ceil(math.log2(size)) for size in sizes)
    return (0.3 * (rounds + 1) * sample.values) + 2 * _CALL * rounds, len(sizes) * sample.values


def box_means(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of pool_former_pool: sums along one dimension after the other."""
    kernel_size = spec.window_in(sample.spatial).kernel_size
    padded = max(1 + (kernel - 1) / size for kernel, size in zip(kernel_size, sample.spatial, strict=True))
    positions = sum(kernel_size)
    return (2 + 0.3 * positions) * sample.values + _CALL * positions, (padded + 1) * sample.values


def spatial_pyramid(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of spatial_pyramid_pool: that of the tiles of each level, and their concatenation."""
    dims = spec.spatial_dims
    levels = [_tiles(sample.channels, sample.spatial, (level,) * dims) for level in spec.levels]
    counts = [sample.channels * level**dims for level in spec.levels]
    # The positions of the maxima, of 8 bytes each, exist while their level is computed.
    peak = max(sum(counts[:number]) + 3 * count for number, count in enumerate(counts)) - sample.results
    return sum(levels) + 2 * _CALL, max(peak, sample.results)


def tiles(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of the mean and the maximum of tiles, whose positions come with the maxima."""
    sizes = spec.output_size
    grid = [size if wanted is None else wanted for wanted, size in zip(sizes, sample.spatial, strict=True)]
    count = sample.channels * math.prod(grid)
    return 2 * _tiles(sample.channels, sample.spatial, grid) + 3 * _CALL, 4.0 * count - sample.results


def gated_windows(spec: Any, sample: Sample) -> tuple[float, float]:
    """Return the cost of gated_max_avg_pool: two convolutions and the maximum."""
    visits = sample.results * math.prod(spec.window.kernel_size)
    per_visit = 1.0 if spec.spatial_dims == 3 else 0.3
    return (
        12 * _CALL + per_visit * visits + 6 * sample.results + 2 * sample.values,
        2 * sample.values + 5 * sample.results,
    )


def _tiles(channels: int, spatial: Sequence[int], grid: Sequence[int]) -> float:
    """Return the steps of one value for each tile: adjacent tiles may share a row of values."""
    if set(grid) == {1}:
        return 0.2 * channels * math.prod(spatial)
    visits = math.prod(size + count for size, count in zip(spatial, grid, strict=True))
    # Means of long tiles are computed one by one.
    calls = sum(count for size, count in zip(spatial, grid, strict=True) if size > TILE_MAX_ADDED * count)
    return channels * (0.8 * visits + 5 * math.prod(grid)) + _LONG_TILE * calls
