"""Random specs of each layer beyond the classic ones, with a shape of a sample that they take."""

import math
from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Any

import numpy as np
from tests.layers.head_folders import HEADS, POOL_HEADS

from poolservice.specs import LAYERS, PoolHead2d, PoolSpec
from poolservice.specs.strip_pool import CORNER_MODES

Sizes = tuple[int, ...]


class Draw:
    """Random sizes of a sample and of windows in it, and random parameters that suit them.

    Attributes:
        random: the source of all random numbers.
        dims: the number of spatial dimensions.
        channels: C.
        spatial: the spatial shape.
        window: the parameters of windows; empty if the window is the plane.
        values: the number of values of a window.
    """

    def __init__(self, random: Random, dims: int, channels: int, spatial: Sizes) -> None:
        self.random = random
        self.dims = dims
        self.channels = channels
        self.spatial = spatial
        self.window: dict[str, Any] = {}
        self.values = math.prod(spatial)
        if random.random() < 0.75:
            self.window = self.windows()
            self.values = math.prod(self.window["kernel_size"])

    def windows(self) -> dict[str, Any]:
        kernel = self.sizes(1, 5, self.spatial)
        return {
            "kernel_size": kernel,
            "stride": self.sizes(1, 4),
            "padding": tuple(self.random.randint(0, size // 2) for size in kernel),
            "ceil_mode": self.flag(),
        }

    def size(self, low: int, high: int) -> int:
        return self.random.randint(low, max(low, high))

    def sizes(self, low: int, high: int, limits: Sizes | None = None) -> Sizes:
        return tuple(self.size(low, min(high, limit)) for limit in limits or (high,) * self.dims)

    def flag(self) -> bool:
        return self.random.random() < 0.5

    def number(self, low: float, high: float) -> float:
        return math.exp(self.random.uniform(math.log(low), math.log(high)))

    def numbers(self, number: Callable[[], float]) -> Any:
        """Return one number, or one for each channel."""
        return tuple(number() for _ in range(self.channels)) if self.flag() else number()

    def array(self, *shape: int) -> Any:
        return np.random.default_rng(self.random.getrandbits(32)).standard_normal(shape)

    def mask(self) -> Any:
        weights = np.abs(self.array(*self.spatial)) * self.number(1e-3, 1e3)
        return weights * (weights > np.quantile(weights, self.random.choice((0.0, 0.5, 0.9))))

    def boxes(self) -> Any:
        height, width = self.spatial
        corners = np.abs(self.array(4, 4)) * [width / 2, height / 2, width, height] - 1
        corners[1:, 2:] += corners[1:, :2]
        return corners * self.random.choice((1.0, 7.0))


def _bins(draw: Draw) -> dict[str, Any]:
    return {
        "boxes": draw.boxes(),
        "output_size": draw.sizes(1, 3),
        "spatial_scale": draw.random.choice((1.0, 0.5, 0.3, 2.0)),
    }


def _own_bins(draw: Draw) -> dict[str, Any]:
    bins = _bins(draw)
    draw.channels = math.prod(bins["output_size"]) * draw.size(1, 3)
    return bins


def _points(draw: Draw) -> dict[str, Any]:
    return {"sampling_ratio": draw.random.choice((-1, 0, 1, 2, 5))}


def _groups(draw: Draw) -> dict[str, Any]:
    groups = draw.size(1, 3)
    draw.channels = groups * draw.size(1, 3)
    p = tuple(draw.number(0.05, 1000) for _ in range(groups))
    return {"p": p, "eps": draw.random.choice((0.0, 1e-6, 0.5)), **draw.window}


def _ada(draw: Draw) -> dict[str, Any]:
    return {"beta": draw.numbers(draw.random.random), **draw.window}


def _trimmed(draw: Draw) -> dict[str, Any]:
    if draw.flag():
        return {"proportiontocut": draw.random.uniform(0, 0.499), **draw.window}
    return {"cut": draw.size(0, (draw.values - 1) // 2), **draw.window}


def _ordinal(draw: Draw) -> dict[str, Any]:
    rows = (draw.channels,) if draw.flag() else ()
    weights = draw.array(*rows, draw.values)
    return {"weights": np.where(draw.array(draw.values) < -1, 0, weights), **draw.window}


def _blur(draw: Draw) -> dict[str, Any]:
    mode = draw.random.choice(("reflect", "replicate", "zeros"))
    limits = tuple(2 * size - 1 if mode == "reflect" else 7 for size in draw.spatial)
    return {"kernel_size": draw.sizes(1, 7, limits), "stride": draw.sizes(1, 3), "padding_mode": mode}


def _max_blur(draw: Draw) -> dict[str, Any]:
    window = draw.sizes(1, 4, draw.spatial)
    full = draw.spatial
    draw.spatial = tuple(size - length + 1 for size, length in zip(full, window, strict=True))
    blur = _blur(draw)
    draw.spatial = full
    return {"max_pool_size": window, **blur}


def _wavelet(draw: Draw) -> dict[str, Any]:
    draw.spatial = tuple(max(2, size) for size in draw.spatial)
    most = math.ceil(math.log2(min(draw.spatial)))
    return {"levels": draw.size(1, most), "norm": draw.random.choice(("ortho", "mean"))}


def _spectral(draw: Draw) -> dict[str, Any]:
    sizes = tuple(None if draw.random.random() < 0.2 else size for size in draw.sizes(1, 10**6, draw.spatial))
    return {"output_size": sizes, "norm": draw.random.choice(("ortho", "mean"))}


def _tiles(draw: Draw) -> dict[str, Any]:
    return {"output_size": tuple(None if draw.random.random() < 0.1 else size for size in draw.sizes(1, 5))}


def _gated(draw: Draw) -> dict[str, Any]:
    window = draw.windows()
    rows = (draw.channels,) if draw.flag() else ()
    return {"weight": draw.array(*rows, *window["kernel_size"]), **window}


def _masked(draw: Draw) -> dict[str, Any]:
    if draw.dims == 1 and draw.flag():
        return {"lengths": draw.size(0, draw.spatial[0]), **draw.window}
    return {"mask": draw.mask(), **draw.window}


def _unpooled(draw: Draw) -> dict[str, Any]:
    kernel, stride = draw.sizes(1, 4), draw.sizes(1, 4)
    padding = tuple(draw.size(0, size // 2) for size in kernel)
    # A single window of 2 with a padding of 1 would leave nothing.
    draw.spatial = tuple(max(2, size) for size in draw.spatial)
    stride = tuple(max(2, size) for size in stride)
    sizes = zip(draw.spatial, kernel, stride, padding, strict=True)
    out = tuple((size - 1) * s - 2 * p + k + draw.size(0, s - 1) for size, k, s, p in sizes)
    return {"kernel_size": kernel, "stride": stride, "padding": padding, "output_size": out}


def _max_unpooled(draw: Draw) -> dict[str, Any]:
    parameters = _unpooled(draw)
    shape = (draw.channels, *draw.spatial)
    most = math.prod(parameters["output_size"])
    indices = np.random.default_rng(draw.random.getrandbits(32)).integers(0, most, shape)
    return {"indices": indices, **parameters}


def _norms(draw: Draw) -> dict[str, Any]:
    return {"signed_sqrt": draw.flag(), "l2_normalize": draw.flag()}


#: Returns parameters of an operator, and may change the number of channels and the spatial shape of the draw.
PARAMETERS: Mapping[str, Callable[[Draw], dict[str, Any]]] = MappingProxyType(
    {
        "soft_pool": lambda d: d.window,
        "gem_pool": lambda d: {
            "p": d.numbers(lambda: d.number(0.05, 1000)),
            "eps": d.random.choice((0.0, 1e-6, 0.5)),
            **d.window,
        },
        "ggem_pool": _groups,
        "power_avg_pool": lambda d: {"p": d.numbers(lambda: d.number(0.05, 1000)), **d.window},
        "lse_pool": lambda d: {"r": d.numbers(lambda: d.number(0.001, 1000)), **d.window},
        "lse_plus": lambda d: {"r": d.numbers(lambda: d.number(0.001, 1000)), **d.window},
        "alpha_softmax_pool": lambda d: {
            "alpha": d.numbers(lambda: d.random.choice((0.0, 1, -1)) * d.number(0.001, 1000)),
            **d.window,
        },
        "em_pool": lambda d: d.window,
        "edscw_pool": lambda d: d.window,
        "ada_pool": _ada,
        "median_pool": lambda d: d.window,
        "rank_pool": lambda d: {"rank": d.size(1, d.values), "largest": d.flag(), **d.window},
        "top_k_avg_pool": lambda d: {"k": d.size(1, d.random.choice((4, d.values)) % d.values + 1), **d.window},
        "trimmed_mean_pool": _trimmed,
        "ordinal_pool": _ordinal,
        "stochastic_pool": lambda d: d.window,
        "blur_pool": _blur,
        "max_blur_pool": _max_blur,
        "wavelet_pool": _wavelet,
        "spectral_pool": _spectral,
        "spatial_pyramid_pool": lambda d: {
            "levels": d.random.sample(range(1, 6), 3),
            "mode": d.random.choice(("max", "avg")),
        },
        "mac": lambda _: {},
        "rmac": lambda d: {"levels": d.size(1, 6)},
        "spoc": lambda d: {"center_prior": d.flag()},
        "crow": lambda d: {"alpha": d.number(0.5, 8), "beta": d.number(0.5, 8)},
        "scda": lambda d: {"connectivity": d.random.choice((4, 8))},
        "strip_pool": lambda _: {},
        "coordinate_pool": lambda _: {},
        "corner_pool": lambda d: {"mode": d.random.choice(CORNER_MODES)},
        "pool_former_pool": lambda d: {"kernel_size": tuple(2 * size + 1 for size in d.sizes(0, 4))},
        "adaptive_avg_max_pool": _tiles,
        "adaptive_cat_avg_max_pool": _tiles,
        "gated_max_avg_pool": _gated,
        "covariance_pool": lambda d: {"iterations": d.size(0, 30)},
        "bilinear_pool": _norms,
        "compact_bilinear_pool": lambda d: {
            "output_dim": d.size(1, 600),
            "seed": d.random.getrandbits(63),
            **_norms(d),
        },
        "roi_align": lambda d: {**_bins(d), **_points(d), "aligned": d.flag()},
        "roi_pool": _bins,
        "ps_roi_align": lambda d: {**_own_bins(d), **_points(d)},
        "ps_roi_pool": _own_bins,
        "masked_avg_pool": _masked,
        "masked_max_pool": _masked,
        "masked_gem_pool": lambda d: {
            "p": d.number(1, 1000),
            "eps": d.random.choice((0.0, 1e-6, 0.5)),
            **_masked(d),
        },
        "max_unpool": _max_unpooled,
        "avg_unpool": _unpooled,
    }
)


def drawn_sizes(random: Random, dims: int) -> Draw:
    """Return a draw with a small sample, of up to 40 positions along a single dimension."""
    longest = {1: 40, 2: 14, 3: 7}[dims]
    return Draw(random, dims, random.randint(1, 6), tuple(random.randint(1, longest) for _ in range(dims)))


def drawn_spec(operator: str, draw: Draw) -> tuple[PoolSpec, tuple[int, ...]]:
    """Return a spec of an operator with random parameters, and the shape (C, *) of a sample."""
    if operator == "pool_head":
        return _drawn_head(draw)
    layer: Any = LAYERS[operator, draw.dims]
    spec = layer(**PARAMETERS[operator](draw))
    return spec, (draw.channels, *draw.spatial)


def _drawn_head(draw: Draw) -> tuple[PoolSpec, tuple[int, ...]]:
    """Return the spec of a head of the examples, and the shape of a sample: of another size, if the head takes any."""
    name = draw.random.choice(sorted(HEADS))
    channels, *spatial = HEADS[name].sample
    spec = POOL_HEADS.resolve(PoolHead2d(name))
    if POOL_HEADS.serving[name].geometry.spatial is None:
        spatial = [size + draw.size(0, 9) for size in spatial]
    return spec, (channels, *spatial)
