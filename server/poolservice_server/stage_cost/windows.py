"""Estimates of the operators on sliding windows."""

import math
from typing import Any

from poolservice_server import kernel_thresholds as thresholds
from poolservice_server.stage_cost import coefficients as c
from poolservice_server.stage_cost.estimate import Estimate, Sizes, pass_steps, sum_dtype
from poolservice_server.stage_cost.window_geometry import Geometry

_ARITHMETIC_EXPONENTS = (0.5, 1.0, 2.0, 3.0)


def extreme(spec: Any, sizes: Sizes, *, minimum: bool) -> Estimate:
    """Estimate the maximum or minimum of each window."""
    geometry = Geometry(spec.window, sizes.spatial)
    slides = geometry.visits >= thresholds.SLIDING_MIN_VISITS_EXTREME
    if spec.return_indices:
        return _keys(geometry, sizes) if slides else _torch_extreme(geometry, sizes, minimum=minimum, indices=True)
    kernel = _extreme_in_numpy(geometry, sizes, minimum=minimum)
    if kernel is not None:
        return kernel
    return _sliding_extreme(geometry, sizes) if slides else _torch_extreme(geometry, sizes, minimum=minimum)


def average(spec: Any, sizes: Sizes) -> Estimate:
    """Estimate the mean of each window."""
    geometry = Geometry(spec.window, sizes.spatial)
    if geometry.slides_for_sums(widens=sizes.integer or sizes.half):
        return _sliding_sum(geometry, sizes)
    in_numpy = _sum_in_numpy(geometry, sizes)
    if in_numpy is None:
        return _torch_mean(geometry, sizes)
    computed = sum_dtype(sizes, math.prod(geometry.window.kernel_size)).itemsize
    divisors = math.prod(geometry.counts) * _divisors(geometry, spec)
    dividing = sizes.results * computed + divisors - sizes.result_bytes
    steps = in_numpy.steps + c.DIVISOR * divisors
    return in_numpy._replace(steps=steps, work_bytes=max(in_numpy.work_bytes, dividing))


def mixed(spec: Any, sizes: Sizes) -> Estimate:
    """Estimate the blend of the maximum and the mean of each window."""
    geometry = Geometry(spec.window, sizes.spatial)
    maximum: Estimate | None
    fraction = 1.0
    if geometry.slides_for_sums(widens=sizes.integer or sizes.half):
        fraction = geometry.band_fraction(sizes.planes)
        mean, maximum = _sliding_sum(geometry, sizes), _sliding_extreme(geometry, sizes)
    else:
        in_numpy = _sum_in_numpy(geometry, sizes), _extreme_in_numpy(geometry, sizes, minimum=False)
        if in_numpy[0] is not None and in_numpy[1] is not None:
            mean, maximum = in_numpy[0], in_numpy[1]
            # The sums become the means in place, and only the blend is the result.
            sums = sizes.results * sum_dtype(sizes, geometry.positions).itemsize
            mean = mean._replace(work_bytes=max(0.0, mean.work_bytes - sums))
            if sizes.half:
                # Both share the widened planes.
                maximum = maximum._replace(work_bytes=max(0.0, maximum.work_bytes - 4 * sizes.values))
        else:
            mean, maximum = _torch_mean(geometry, sizes), _torch_extreme(geometry, sizes, minimum=False)
    computed = sum_dtype(sizes, geometry.positions).itemsize
    widened = fraction * 4 * sizes.values if sizes.half else 0
    results = fraction * sizes.results
    blended = results * (2 * computed if computed != sizes.width or sizes.integer else computed)
    work = max(mean.work_bytes, widened + maximum.work_bytes + results * computed, widened + blended)
    return Estimate(
        f"mixed, {mean.algorithm}",
        mean.steps + maximum.steps + 4 * pass_steps(sizes.results, computed),
        work,
        sizes.result_bytes,
    )


def power_sum(spec: Any, sizes: Sizes) -> Estimate:
    """Estimate the power sum of each window."""
    geometry = Geometry(spec.window, sizes.spatial)
    computed = 8 if sizes.integer or sizes.width == 8 else 4
    cheap = spec.norm_type in _ARITHMETIC_EXPONENTS
    power = c.ARITHMETIC_POWER if cheap else c.POWER
    root = c.ARITHMETIC_POWER if 1 / spec.norm_type in _ARITHMETIC_EXPONENTS else c.POWER
    powers = (
        sizes.values * power
        + sizes.results * (root + c.POWER_SUM[computed])
        + c.CONVERSION * (computed != sizes.width) * sizes.values
    )
    converted = computed * sizes.values if sizes.integer or sizes.half else 0
    if geometry.slides_for_sums(widens=True):
        total = _sliding_sum(geometry, sizes, added_in=computed)
        fraction = geometry.band_fraction(sizes.planes)
        work = max(fraction * (converted + computed * sizes.values), total.work_bytes)
        return Estimate(f"power, {total.algorithm}", total.steps + powers, work, sizes.result_bytes)
    if cheap and spec.norm_type == 2 and not spec.ceil_mode:
        in_numpy = _sum_in_numpy(geometry, sizes, computed_in=computed)
        if in_numpy is not None:
            work = in_numpy.work_bytes + computed * sizes.values
            if len(sizes.spatial) == 1 and not sizes.integer and not sizes.half:
                work -= min(in_numpy.work_bytes, sizes.result_bytes)  # the sums become the result in place
            return Estimate(f"power, {in_numpy.algorithm}", in_numpy.steps + powers, work, sizes.result_bytes)
    visits = sizes.planes * geometry.read
    steps = c.CALL + powers + c.TORCH_MEAN * visits + c.TORCH_WINDOW * sizes.results
    # The powers are freed before the root: the mean, its sign, its magnitude and their product are left.
    work = max(converted + computed * (sizes.values + sizes.results), converted + 3 * computed * sizes.results)
    return Estimate("power, torch", steps, work, sizes.result_bytes)


def _extreme_in_numpy(geometry: Geometry, sizes: Sizes, *, minimum: bool) -> Estimate | None:
    if len(sizes.spatial) == 1 and not sizes.integer:
        if minimum or geometry.window.kernel_size[0] > min(sizes.spatial[0], thresholds.SLICE_MAX_EXTREME_KERNEL):
            return None
        if sizes.half and sizes.values < thresholds.HALF_MIN_VALUES:
            return None
        steps = c.CALL + _max_pool_1d(geometry, sizes, max(4, sizes.width))
        widened = 4 * (sizes.values + sizes.results) if sizes.half else 0
        return Estimate("torch's max_pool1d", steps + widened * c.CONVERSION / 4, widened, sizes.result_bytes)
    slice_from = geometry.slice_from(thresholds.SLICE_MAX_EXTREME_KERNEL)
    gather_up_to = geometry.gather_up_to(slice_from)
    if math.prod(geometry.window.kernel_size) > thresholds.GATHER_MAX_POSITIONS:
        gather_up_to = min(gather_up_to, thresholds.GATHER_MAX_VALUES_STRIDED // geometry.read)
    if not geometry.holds_input or (sizes.half and sizes.values < thresholds.HALF_MIN_VALUES):
        return None
    width = 4 if sizes.half else sizes.width
    widened = 4 * (sizes.values + sizes.results) if sizes.half else 0
    converting = widened * c.CONVERSION / 4
    if sizes.planes <= gather_up_to:
        return _gathered(geometry, sizes, width, widened, converting, sums=False)
    if sizes.planes < slice_from:
        return None
    passes = geometry.doublings(1.0, 1.5)
    if geometry.padded > 1:
        passes += 2 * geometry.padded  # makes the padding, and copies the planes into it
    steps = c.CALL + converting + pass_steps(sizes.values * passes, width)
    work = widened + width * _slices_of_extremes(geometry, sizes)
    return Estimate("slices", steps, work, sizes.result_bytes)


def _max_pool_1d(geometry: Geometry, sizes: Sizes, width: int) -> float:
    visit = (c.TORCH_MAXIMUM_1D if geometry.window.stride == (1,) else c.TORCH_MAXIMUM_1D_STRIDED)[width]
    return sizes.results * (visit * geometry.positions + c.TORCH_RESULT_1D * width)


def _slices_of_extremes(geometry: Geometry, sizes: Sizes) -> float:
    """Return the values that `shifted_slices` holds beside the result while it combines one axis after the other."""
    made = geometry.padded * sizes.values
    held = made if geometry.padded > 1 else 0.0
    left, peak = made, held
    strides = (*geometry.window.stride[:-1], 1)
    for kernel, stride in zip(geometry.window.kernel_size, strides, strict=True):
        if kernel > 1 or stride > 1:
            # While windows are doubled in length there are two lengths, and afterwards one of them and the combination.
            doubling = held + 2 * left if kernel > 4 else 0.0
            peak = max(peak, doubling, held + (kernel > 3) * left + left / stride)
            left /= stride
            held = left
    if len(sizes.spatial) == 1 and sizes.planes == 1 and geometry.window.stride == (1,):
        return peak - sizes.results  # the last combination is the result
    return max(peak - sizes.results, held)


def _divisors(geometry: Geometry, spec: Any) -> float:
    """Return the bytes per window of computing each window's divisor, if windows differ and are too many to cache."""
    differ = geometry.window.ceil_mode or (
        any(geometry.window.padding) and not getattr(spec, "count_include_pad", True)
    )
    override = getattr(spec, "divisor_override", None)
    if override is not None or not differ or math.prod(geometry.counts) <= thresholds.CACHED_DIVISORS:
        return 0.0
    return 26.0 if len(geometry.counts) == 1 else 16.0


def _sum_in_numpy(geometry: Geometry, sizes: Sizes, computed_in: int | None = None) -> Estimate | None:
    window, size = geometry.window, math.prod(geometry.window.kernel_size)
    width = computed_in or (4 if sizes.half else sizes.width)
    small = size <= 4 and sizes.spatial[-1] >= 4 * thresholds.SLICE_MIN_ROW
    skips = window.stride[-1] > 1 and not small and (window.stride[-1] > 2 or width > 4)
    slice_from = math.inf if skips else geometry.slice_from(thresholds.SLICE_MAX_SUM_KERNEL)
    gather_up_to = geometry.gather_up_to(slice_from) if max(window.dilation) == 1 else 0
    if sizes.half and sizes.values < thresholds.HALF_MIN_VALUES:
        return None
    computed = computed_in or sum_dtype(sizes, size).itemsize
    converted = computed * sizes.values if sizes.integer or sizes.half else 0
    if sizes.planes <= gather_up_to:
        return _gathered(geometry, sizes, computed, converted, c.CONVERSION * sizes.values, sums=True)
    if sizes.planes < slice_from:
        return None
    added = computed
    if computed_in is None and sizes.integer:
        added = (2 if size <= 2**7 else 4) if sizes.width == 1 else 4 if sizes.width == 2 else 8
    rows = 1 / math.prod(window.stride[:-1])
    made = geometry.padded * sizes.values
    adding = pass_steps(made * rows * size, added) + 3 * pass_steps(made, added)
    steps = c.CALL + adding + c.CONVERSION * (sizes.values + sizes.results)
    copies = math.prod(window.kernel_size[:-1]) * rows if rows < 1 else 0.0
    work = added * (
        (sizes.integer or sizes.half) * sizes.values + (geometry.padded > 1) * made + made * (copies + rows)
    )
    return Estimate("slices", steps, work, sizes.result_bytes)


def _gathered(
    geometry: Geometry, sizes: Sizes, width: int, converted: float, converting: float, *, sums: bool
) -> Estimate:
    read = sizes.planes * geometry.read
    positions = math.prod(geometry.window.kernel_size)
    many = sizes.planes >= thresholds.GATHER_MANY_PLANES
    # One call per position in the window, or all values of all windows at once.
    if sums:
        by_position = many or math.prod(geometry.counts) == 1
    else:
        by_position = many and positions <= thresholds.GATHER_MAX_POSITIONS
    calls = c.CALL + c.GATHER_CALL * positions * by_position
    taken = 2 * sizes.results if by_position else read
    return Estimate("gather", calls + converting + c.GATHERED * read, converted + width * taken, sizes.result_bytes)


def _sliding_extreme(geometry: Geometry, sizes: Sizes) -> Estimate:
    width = 4 if sizes.half else sizes.width
    fraction = geometry.band_fraction(sizes.planes)
    band = fraction * sizes.values
    steps = c.CALL + pass_steps(sizes.values * geometry.doublings(1.0, 3.0), width)
    work = band * geometry.chain_peak * width
    if sizes.half:
        steps += c.CONVERSION * (sizes.values + sizes.results)
        work += 4 * band
    elif fraction == 1:
        work -= band * geometry.chain[-1] * width
    return Estimate("sliding extremes", steps, max(0.0, work), sizes.result_bytes)


def _sliding_sum(geometry: Geometry, sizes: Sizes, added_in: int | None = None) -> Estimate:
    added = added_in or _sliding_sum_bytes(geometry, sizes)
    halves = 2 if added_in is None and sizes.integer and sizes.width == 8 else 1
    fraction = geometry.band_fraction(sizes.planes)
    band, results = fraction * sizes.values, fraction * sizes.results
    steps = c.CALL + halves * pass_steps(sizes.values * geometry.doublings(1.5, 3.0), added)
    steps += c.CONVERSION * sizes.values + 4 * sizes.results
    converted = added * band if added_in or added != sizes.width or halves == 2 else 0
    ends = results * (added + 8 + (4 if added == 4 or sizes.integer else 0))
    work = max(converted + band * geometry.chain_peak * added + (halves - 1) * 8 * results, ends)
    if fraction == 1:
        work -= min(work, sizes.result_bytes)
    return Estimate("sliding sums", steps, work, sizes.result_bytes)


def _sliding_sum_bytes(geometry: Geometry, sizes: Sizes) -> int:
    if not sizes.integer:
        return 8 if sizes.width == 8 else 4
    if sizes.width == 1 and geometry.positions <= 2**7:
        return 2
    largest = 256**sizes.width // (1 if sizes.dtype.kind == "u" else 2)
    return 4 if largest * geometry.positions <= 2**31 else 8


def _keys(geometry: Geometry, sizes: Sizes) -> Estimate:
    """Estimate extremes with indices, by integer keys that hold the position of each value."""
    sorts = sizes.width == 8
    rank = (c.RANK_INTEGER if sizes.integer else c.RANK_FLOAT) if sorts else 0.0
    fraction = geometry.band_fraction(sizes.planes)
    band, results = fraction * sizes.values, fraction * sizes.results
    steps = c.CALL + sizes.values * (c.KEY + rank) + 8 * sizes.results
    steps += pass_steps(sizes.values * geometry.doublings(1.0, 3.0), 8)
    made = band * (16 if sorts else 8 + 8 / sizes.planes)
    ends = made + results * 8 * (2 + len(sizes.spatial) * (fraction < 1))
    work = max(made + 8 * band * geometry.chain_peak, ends, band * 24)
    if fraction == 1:
        work -= min(work, 8 * sizes.results)
    return Estimate("keys", steps, work, sizes.result_bytes)


def _torch_extreme(geometry: Geometry, sizes: Sizes, *, minimum: bool, indices: bool = False) -> Estimate:
    visits = sizes.results * geometry.positions
    if len(sizes.spatial) == 1 and not sizes.integer and not indices:
        steps, work = c.CALL + _max_pool_1d(geometry, sizes, sizes.width), 0.0
    else:
        steps = c.CALL + c.TORCH_MAXIMUM * visits + c.TORCH_WINDOW * sizes.results
        # torch computes the indices, wanted or not.
        work = 0.0 if indices else 8.0 * sizes.results
    if minimum:
        # The planes are reversed before, and the results after.
        steps += pass_steps(sizes.values + sizes.results, sizes.width)
        work = max(sizes.width * sizes.values + work, sizes.width * sizes.results)
    return Estimate("torch's maxima", steps, work, sizes.result_bytes)


def _torch_mean(geometry: Geometry, sizes: Sizes) -> Estimate:
    computed = sum_dtype(sizes, math.prod(geometry.window.kernel_size)).itemsize
    visits = sizes.results * geometry.positions
    visit = c.TORCH_MEAN + c.TORCH_MEAN_ROW / geometry.held[-1]
    steps = c.CALL + visit * visits + c.TORCH_WINDOW * sizes.results
    if not sizes.integer and not (sizes.half and len(sizes.spatial) == 3):
        return Estimate("torch's means", steps, 0, sizes.result_bytes)
    steps += c.CONVERSION * sizes.values
    work = computed * sizes.values
    if computed == 8 or sizes.half:
        work += computed * sizes.results - min(computed * sizes.values, sizes.result_bytes)
    if sizes.integer and sizes.width == 8:
        # The divisors of the windows correct the rounding of their means.
        steps += c.TORCH_INT64 * (sizes.values + sizes.results)
        work = max(work + 8 * sizes.results, (24 if len(sizes.spatial) == 1 else 16) * sizes.results)
    return Estimate("torch's means", steps, work, sizes.result_bytes)
