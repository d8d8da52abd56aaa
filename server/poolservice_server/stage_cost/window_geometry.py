"""How windows cover a plane, and which algorithms pool them: what `pooling` decides, without torch."""

import math
from functools import cached_property

from poolservice.specs import Window
from poolservice_server import kernel_thresholds as thresholds
from poolservice_server.operator_shapes import window_grid


class Geometry:
    """The windows of a plane.

    Attributes:
        window: the window.
        spatial: the spatial shape of the plane.
        counts: the number of windows along each axis.
        held: how many values a window holds at most along each axis.
        positions: how many values of a plane a window holds at most.
        visits: how often windows read each value of a plane on average.
        read: the number of values that all windows of a plane hold, padding included.
        padded: how many times as large as a plane it is with its padding.
    """

    def __init__(self, window: Window, spatial: tuple[int, ...]) -> None:
        self.window = window
        self.spatial = spatial
        self.counts = window_grid(window, spatial)
        self.held = tuple(
            min(kernel, -(-size // dilation))
            for size, kernel, dilation in zip(spatial, window.kernel_size, window.dilation, strict=True)
        )
        self.positions = math.prod(self.held)
        self.visits = math.prod(k * n / size for k, n, size in zip(self.held, self.counts, spatial, strict=True))
        self.read = math.prod(self.counts) * math.prod(window.kernel_size)
        self.padded = math.prod(
            max(stride * (count - 1) + kernel, padding + size) / size
            for count, kernel, stride, padding, size in zip(self.counts, *window[:3], spatial, strict=True)
        )

    @property
    def holds_input(self) -> bool:
        """True if no window can lie in the padding alone."""
        return all(p == 0 or d == 1 for p, d in zip(self.window.padding, self.window.dilation, strict=True))

    def slides_for_sums(self, *, widens: bool) -> bool:
        """Return True if the values of a window are added in a tree; `widens` if other kernels convert whole planes."""
        large = math.prod(self.spatial) >= thresholds.SLIDING_LARGE_PLANE
        if large and widens:
            return True
        enough = self.positions > thresholds.SLIDING_MIN_POSITIONS_SUM[large]
        return enough and self.visits >= thresholds.SLIDING_MIN_VISITS_SUM[large]

    @cached_property
    def chain(self) -> list[float]:
        """The sizes of a plane after each axis is combined, the last axis first, relative to the plane."""
        sizes = [1.0]
        for kernel, count, size in reversed(list(zip(self.held, self.counts, self.spatial, strict=True))):
            if kernel > 1 or count != size:
                sizes.append(sizes[-1] * count / size)
        return sizes

    @property
    def chain_peak(self) -> float:
        """The largest sum of two consecutive sizes of `chain`, without the plane itself."""
        made = self.chain[1:] or [1.0]
        return max(map(sum, zip(made, [*made[1:], 0.0], strict=True)))

    def slice_from(self, max_kernel: int) -> float:
        """Return from how many planes slices are worth their calls; infinity if they never are."""
        kernel = max(self.window.kernel_size)
        if not 1 < kernel <= max_kernel or max(self.window.dilation) > 1 or self.spatial[-1] < thresholds.SLICE_MIN_ROW:
            return math.inf
        return math.ceil(thresholds.SLICE_MIN_VALUES / self.read)

    def gather_up_to(self, slice_from: float) -> float:
        """Return up to how many planes gathering is the fastest."""
        if not 1 < self.read <= thresholds.CACHED_GATHER_POSITIONS:
            return 0
        if slice_from == math.inf:
            return math.inf
        limit = thresholds.GATHER_MAX_VALUES if self.window.stride[-1] == 1 else thresholds.GATHER_MAX_VALUES_STRIDED
        return limit // self.read

    def doublings(self, per_doubling: float, per_axis: float) -> float:
        """Return the passes over a plane that combining one axis after the other takes."""
        passes, left = 0.0, self.padded
        for kernel, count, size in reversed(list(zip(self.held, self.counts, self.spatial, strict=True))):
            if kernel > 1 or count != size:
                passes += left * (per_doubling * math.log2(kernel) + per_axis)
                left *= count / size
        return passes

    def band_fraction(self, planes: int) -> float:
        """Return the part of the planes that sliding kernels combine at a time."""
        axis = max(range(len(self.spatial)), key=self.spatial.__getitem__)
        size = self.spatial[axis]
        extent = self.window.dilation[axis] * (self.held[axis] - 1) + 1
        across = planes * math.prod(self.spatial) // size
        starts = max(thresholds.SLIDING_BAND_VALUES // across, 3 * extent)
        if starts >= self.window.stride[axis] * self.counts[axis] or self.window.padding[axis] > size:
            return 1.0
        return min(1.0, (starts + extent) / size)
