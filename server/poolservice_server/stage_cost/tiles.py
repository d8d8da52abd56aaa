"""Estimates of the adaptive and the global operators."""

import math
from typing import Any

from poolservice_server import kernel_thresholds as thresholds
from poolservice_server.stage_cost import coefficients as c
from poolservice_server.stage_cost.estimate import Estimate, Sizes, pass_steps, sum_dtype


def plane_extreme(_spec: Any, sizes: Sizes) -> Estimate:
    """Estimate the maximum or minimum of each plane."""
    widened = 4 if sizes.half else 0
    steps = c.CALL + c.PLANE_MAXIMUM * pass_steps(sizes.values, 4 if sizes.half else sizes.width)
    if sizes.half:
        steps += c.CONVERSION * sizes.values
    return Estimate("plane extreme", steps, widened * sizes.values, sizes.result_bytes)


def plane_mean(_spec: Any, sizes: Sizes) -> Estimate:
    """Estimate the mean of each plane."""
    widened = sizes.half or (sizes.width <= 2 and math.prod(sizes.spatial) <= thresholds.MAX_WIDENED_VALUES)
    converted = 4 if widened else 0
    steps = c.CALL + sizes.values * (c.CONVERSION * (converted > 0) + c.PLANE_MEAN * (2 if sizes.width == 8 else 1))
    if sizes.integer and not converted:
        steps += sizes.values * c.CONVERSION
    return Estimate("plane mean", steps, converted * sizes.values, sizes.result_bytes)


def tiles(spec: Any, sizes: Sizes, *, mean: bool) -> Estimate:
    """Estimate the maximum or mean of each tile."""
    grid = tuple(size if wanted is None else wanted for wanted, size in zip(spec.sizes, sizes.spatial, strict=True))
    indices = getattr(spec, "return_indices", False)
    if set(grid) == {1} and not indices:
        return plane_mean(spec, sizes) if mean else plane_extreme(spec, sizes)
    read = sizes.planes * math.prod(
        size if size % count == 0 else min(size + count, 2 * count * -(-size // count))
        for size, count in zip(sizes.spatial, grid, strict=True)
        if count
    )
    per_row = (1, *grid)[-2] if len(grid) > 1 else 1
    gathered = _gathered_values(sizes.spatial, grid, mean=mean)
    in_numpy = (
        not indices
        and math.prod(grid) <= thresholds.CACHED_TILES
        and sizes.spatial[-1] + 2 * grid[-1] <= thresholds.CACHED_COLUMNS
        and (gathered > 0 or (len(grid) < 3 and per_row <= thresholds.TILE_MAX_ROWS))
    )
    computed = sum_dtype(sizes, read // max(sizes.results, 1)).itemsize if mean else 4 if sizes.half else sizes.width
    converts = sizes.half or (mean and sizes.integer)
    steps = c.CALL + c.CONVERSION * converts * sizes.values
    converted = computed * sizes.values if converts else 0
    if mean and sizes.integer and sizes.width == 8:
        steps += c.CONVERSION * 4 * sizes.values  # looks for the extremes first
    if in_numpy and gathered:
        values = gathered * sizes.planes
        steps += c.GATHERED * values + c.TILE_GATHERED_MEAN * sizes.results * mean
        return Estimate("gathered tiles", steps, converted + computed * values, sizes.result_bytes)
    if in_numpy:
        columns = sizes.planes * per_row * sizes.spatial[-1] * computed
        steps += pass_steps(read, computed) + 2 * columns / computed
        if mean:
            steps += c.TILE_MEAN * sizes.results
        else:
            rows = sizes.planes * math.prod(sizes.spatial[:-1])
            tile = c.TILE_MAXIMUM_1D if len(grid) == 1 else c.TILE_MAXIMUM[computed]
            steps += tile * sizes.results + c.TILE_MAXIMUM_ROW * rows
        if sizes.integer and math.prod(sizes.spatial) > thresholds.MAX_WIDENED_VALUES:
            converted = converted // per_row  # one row of tiles at a time
        # Disjoint tiles are added in place; others need the columns of each tile, and their gathered copy.
        copies = 1.0 if mean and read == sizes.values else 2.5
        return Estimate("tiles in numpy", steps, converted + copies * columns, sizes.result_bytes)
    long_int = sizes.integer and sizes.width == 8
    steps += c.TORCH_INT64 * sizes.values * long_int + c.TORCH_WINDOW * sizes.results
    if mean:
        # torch's sums may be as large as the sum of a plane.
        computed = sum_dtype(sizes, math.prod(sizes.spatial)).itemsize
        steps += c.TORCH_TILE_MEAN * read
        converts = sizes.integer or (sizes.half and len(grid) == 3)
        work = computed * (sizes.values + sizes.results) if converts else 0
        return Estimate("tile means in torch", steps, work, sizes.result_bytes)
    longest = -(-sizes.spatial[-1] // max(grid[-1], 1))
    maximum = c.TORCH_TILE_MAXIMUM_3D_HALF if sizes.half and len(grid) == 3 else c.TORCH_TILE_MAXIMUM
    steps += (maximum + c.TORCH_TILE_RUN / longest) * read
    # torch has kernels for floats only, and always returns the indices.
    wide = (4 if sizes.width < 4 else 8) if sizes.integer else 0
    work = wide * (sizes.values + sizes.results) + (0 if indices else 8 * sizes.results)
    return Estimate("tile extremes in torch", steps, work, sizes.result_bytes)


def _gathered_values(spatial: tuple[int, ...], grid: tuple[int, ...], *, mean: bool) -> int:
    """Return the number of values that are gathered for the tiles of a plane; 0 if they are not gathered."""
    values, equal, disjoint = math.prod(grid), True, True
    for size, count in zip(spatial, grid, strict=True):
        # The tiles repeat after a period of values.
        period_tiles = count // math.gcd(size, count)
        period = size // math.gcd(size, count)
        # The longest tile starts as late as possible in its first value.
        values *= -(-(period + period_tiles - 1) // period_tiles)
        equal &= period_tiles == 1 or period % period_tiles == 1
        disjoint &= period_tiles == 1
    if not mean:
        return values if values <= thresholds.TILE_GATHER_MAX_EXTREME else 0
    limit = thresholds.TILE_GATHER_MAX_DISJOINT if disjoint else thresholds.TILE_GATHER_MAX_OVERLAPPING
    return values if equal and values <= limit else 0
