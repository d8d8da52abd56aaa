"""The specs that `layers.py` measures, and what a user of torch would write instead of each."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from poolservice import specs as s
from poolservice.specs import PoolSpec

Expression = Callable[[torch.Tensor], object]


class Case(NamedTuple):
    """One spec.

    Attributes:
        label: what it pools, if the operator has several cases.
        spec: the spec.
        expression: what a user of torch would write for (N, C, H, W); None if there is no short expression.
    """

    label: str
    spec: PoolSpec
    expression: Expression | None


class Windows(NamedTuple):
    """The windows of 2x2, or the whole plane, with functions of torch."""

    label: str
    kernel_size: int | None
    mean: Expression
    maximum: Expression
    #: (N, C, *out, values of the window).
    values: Expression


WINDOWS = (
    Windows(
        "2x2",
        2,
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.max_pool2d(x, 2),
        lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2),
    ),
    Windows(
        "plane",
        None,
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: x.amax((2, 3), keepdim=True),
        lambda x: x.flatten(2)[:, :, None, None],
    ),
)


def _softmax_mean(w: Any, x: Any, alpha: float = 1.0) -> Any:
    weights = (alpha * x).exp()
    return w.mean(x * weights) / w.mean(weights)


def _similarity_mean(w: Any, x: Any) -> Any:
    values = w.values(x)
    mean = values.mean(-1, keepdim=True)
    weights = (2 * (values * mean).abs() / (values * values + mean * mean)).exp()
    return (values * weights).sum(-1) / weights.sum(-1)


def _over_windows(w: Windows, channels: int, spatial: tuple[int, int]) -> Iterator[tuple[PoolSpec, Any]]:
    """Yield the operators that pool windows or planes, with their expressions of windows and input."""
    k = w.kernel_size
    powers = torch.tensor((2.0, 3.0)).repeat_interleave(channels // 2)[:, None, None]
    size = math.prod(spatial) if k is None else k * k
    ordinal = np.full(size, 1 / size, np.float32)
    weights = torch.from_numpy(ordinal)
    mask = np.arange(math.prod(spatial)).reshape(spatial) % 4
    m = torch.from_numpy(mask).float()
    cut = size // 4
    yield s.GeMPool2d(kernel_size=k), lambda w, x: w.mean(x.clamp(min=1e-6).pow(3)).pow(1 / 3)
    yield (
        s.GGeMPool2d((2.0, 3.0), kernel_size=k),
        lambda w, x: w.mean(x.clamp(min=1e-6).pow(powers)).pow(1 / powers),
    )
    yield s.PowerAvgPool2d(kernel_size=k), lambda w, x: w.mean(x * x).sqrt()
    yield s.SoftPool2d(k), _softmax_mean
    yield s.AlphaSoftmaxPool2d(2.0, k), lambda w, x: _softmax_mean(w, x, 2.0)
    yield s.LSEPool2d(1.0, k), lambda w, x: w.mean(x.exp()).log()
    yield s.LsePlus2d(10.0, k), lambda w, x: w.mean((10 * x).exp()).log() / 10
    yield s.EMPool2d(k), _softmax_mean
    yield s.EDSCWPool2d(k), _similarity_mean
    yield s.AdaPool2d(k), lambda w, x: 0.5 * _similarity_mean(w, x) + 0.5 * _softmax_mean(w, x)
    yield s.MedianPool2d(k), lambda w, x: w.values(x).median(-1).values
    yield s.RankPool2d(2, k), lambda w, x: w.values(x).kthvalue(2, -1).values
    yield s.TopKAvgPool2d(3, k), lambda w, x: w.values(x).topk(3, -1).values.mean(-1)
    yield s.TrimmedMeanPool2d(k, cut=cut), lambda w, x: w.values(x).sort(-1).values[..., cut : size - cut].mean(-1)
    yield s.OrdinalPool2d(ordinal, k), lambda w, x: w.values(x).sort(-1, descending=True).values @ weights
    yield s.StochasticPool2d(k), lambda w, x: w.mean(x * x) / w.mean(x)
    yield s.MaskedAvgPool2d(mask, kernel_size=k), lambda w, x: w.mean(x * m) / w.mean(m[None, None])
    yield s.MaskedMaxPool2d(mask, kernel_size=k), lambda w, x: w.maximum(x.masked_fill(m == 0, -math.inf))
    yield (
        s.MaskedGeMPool2d(mask, kernel_size=k),
        lambda w, x: (w.mean(x.clamp(min=1e-6).pow(3) * m) / w.mean(m[None, None])).pow(1 / 3),
    )


def _binomial(kernel_size: int, channels: int) -> torch.Tensor:
    row = torch.tensor([math.comb(kernel_size - 1, k) for k in range(kernel_size)]) / 2.0 ** (kernel_size - 1)
    return (row[:, None] * row).expand(channels, 1, -1, -1).contiguous()


def _pyramid(x: Any) -> Any:
    return torch.cat([F.adaptive_max_pool2d(x, level).flatten(1) for level in (1, 2, 4)], 1)


def _regional_maxima(x: Any) -> Any:
    side = x.shape[-1]
    total = torch.zeros(())
    for level in (1, 2, 3):
        size = 2 * side // (level + 1)
        starts = [(side - size) * n // max(level - 1, 1) for n in range(level)]
        for top in starts:
            for left in starts:
                region = x[:, :, top : top + size, left : left + size]
                total = total + F.normalize(region.amax((2, 3)))
    return F.normalize(total)


def _crow(x: Any) -> Any:
    sums = x.sum(1, keepdim=True)
    positions = (sums / (sums * sums).sum().sqrt()).sqrt()
    shares = (x != 0).float().mean((2, 3))
    return F.normalize((x * positions).sum((2, 3)) * (shares.sum() / shares).log())


def _corner(x: Any) -> Any:
    top = x.flip(2).cummax(2).values.flip(2)
    return top + x.flip(3).cummax(3).values.flip(3)


def _covariance(x: Any) -> Any:
    vectors = x.flatten(2)
    vectors = vectors - vectors.mean(2, keepdim=True)
    covariance = vectors @ vectors.mT / vectors.shape[2]
    trace = covariance.diagonal(dim1=1, dim2=2).sum()
    identity = torch.eye(x.shape[1])
    y, z = covariance / trace, identity
    for _ in range(5):
        step = (3 * identity - z @ y) / 2
        y, z = y @ step, step @ z
    rows, columns = torch.triu_indices(x.shape[1], x.shape[1])
    return (y * trace.sqrt())[:, rows, columns]


def _bilinear(x: Any) -> Any:
    vectors = x.flatten(2)
    products = (vectors @ vectors.mT).flatten(1)
    return F.normalize(products.sign() * products.abs().sqrt())


def _others(channels: int, spatial: tuple[int, int]) -> Iterator[Case]:
    """Yield the operators that have one form only."""
    height, width = spatial
    rows, columns = torch.arange(0, height - 1, 2), torch.arange(0, width - 1, 2)
    four = _binomial(4, channels)
    gate = np.linspace(-1, 1, 4, dtype=np.float32).reshape(2, 2)
    gates = torch.from_numpy(gate).expand(channels, 1, -1, -1).contiguous()
    corners = np.random.default_rng(0).uniform(0, height / 2, (32, 2))
    boxes = np.concatenate([corners, corners + height / 3], 1).astype(np.float32)
    larger = torch.rand(1, channels, 2 * height, 2 * width, generator=torch.Generator().manual_seed(1))
    indices = F.max_pool2d(larger, 2, return_indices=True)[1]
    half = (height // 2, width // 2)

    def spectral(x: Any) -> Any:
        spectrum = torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"), (2, 3))
        top, left = height // 4, width // 4
        cropped = spectrum[:, :, top : top + half[0], left : left + half[1]]
        return torch.fft.ifft2(torch.fft.ifftshift(cropped, (2, 3)), norm="ortho").real

    def gated(x: Any) -> Any:
        gate = F.conv2d(x, gates, stride=2, groups=channels).sigmoid()
        return gate * F.max_pool2d(x, 2) + (1 - gate) * F.avg_pool2d(x, 2)

    def blurred(x: Any) -> Any:
        return F.conv2d(F.pad(x, (1, 2, 1, 2), "reflect"), four, stride=2, groups=channels)

    def average_and_maximum(x: Any) -> Any:
        return F.adaptive_avg_pool2d(x, 4), F.adaptive_max_pool2d(x, 4)

    table: tuple[tuple[str, PoolSpec, Expression | None], ...] = (
        ("2x2", s.MaxPool2d(2), lambda x: F.max_pool2d(x, 2)),
        ("2x2", s.MinPool2d(2), lambda x: -F.max_pool2d(-x, 2)),
        ("2x2", s.AvgPool2d(2), lambda x: F.avg_pool2d(x, 2)),
        ("2x2", s.LPPool2d(2, 2), lambda x: F.lp_pool2d(x, 2.0, 2)),
        ("2x2", s.MixedPool2d(2), lambda x: 0.5 * F.max_pool2d(x, 2) + 0.5 * F.avg_pool2d(x, 2)),
        ("2x2", s.GatedMaxAvgPool2d(2, gate), gated),
        ("4x4 tiles", s.AdaptiveMaxPool2d(4), lambda x: F.adaptive_max_pool2d(x, 4)),
        ("4x4 tiles", s.AdaptiveAvgPool2d(4), lambda x: F.adaptive_avg_pool2d(x, 4)),
        ("4x4 tiles", s.AdaptiveAvgMaxPool2d(4), lambda x: sum(average_and_maximum(x)) / 2),
        ("4x4 tiles", s.AdaptiveCatAvgMaxPool2d(4), lambda x: torch.cat(average_and_maximum(x), 1)),
        ("", s.GlobalMaxPool2d(), lambda x: x.amax((2, 3), keepdim=True)),
        ("", s.GlobalMinPool2d(), lambda x: x.amin((2, 3), keepdim=True)),
        ("", s.GlobalAvgPool2d(), lambda x: x.mean((2, 3), keepdim=True)),
        ("", s.Sequential([s.MaxPool2d(2), s.SoftPool2d()]), lambda x: _softmax_mean(WINDOWS[1], F.max_pool2d(x, 2))),
        ("", s.S3Pool2d(2), lambda x: F.max_pool2d(x, 2, 1)[:, :, rows][:, :, :, columns]),
        (
            "",
            s.FractionalMaxPool2d(2, output_ratio=0.7),
            lambda x: F.fractional_max_pool2d(x, 2, output_ratio=(0.7, 0.7)),
        ),
        ("", s.BlurPool2d(), blurred),
        ("", s.MaxBlurPool2d(), lambda x: blurred(F.max_pool2d(x, 2, 1))),
        ("", s.WaveletPool2d(), lambda x: F.avg_pool2d(x, 2) * 2),
        ("", s.SpectralPool2d(half), spectral),
        ("", s.SpatialPyramidPool2d(), _pyramid),
        ("", s.MAC2d(), lambda x: F.normalize(x.amax((2, 3)))),
        ("", s.RMAC2d(), _regional_maxima),
        ("", s.SPoC2d(), lambda x: F.normalize(x.sum((2, 3)))),
        ("", s.CroW2d(), _crow),
        ("", s.SCDA2d(), None),
        ("", s.StripPool2d(), lambda x: x.mean(3, keepdim=True) + x.mean(2, keepdim=True)),
        ("", s.CoordinatePool2d(), lambda x: torch.cat([x.mean(3), x.mean(2)], 2)[..., None]),
        ("", s.CornerPool2d(), _corner),
        ("", s.PoolFormerPool2d(), lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x),
        ("", s.CovariancePool2d(), _covariance),
        ("", s.BilinearPool2d(), _bilinear),
        ("", s.CompactBilinearPool2d(), None),
        ("", s.MaxUnpool2d(indices[0].numpy(), 2), lambda x: F.max_unpool2d(x, indices, [2, 2])),
        ("", s.AvgUnpool2d(2), lambda x: F.interpolate(x, scale_factor=2) / 4),
        # torchvision has these operators, and torch has not.
        ("", s.RoIAlign2d(boxes, 2), None),
        ("", s.RoIPool2d(boxes, 2), None),
        ("", s.PSRoIAlign2d(boxes, 2), None),
        ("", s.PSRoIPool2d(boxes, 2), None),
    )
    for label, spec, expression in table:
        yield Case(label, spec, expression)


def cases(channels: int, spatial: tuple[int, int]) -> Iterator[Case]:
    """Yield every operator but the pool heads, each with one or two specs, for samples of these sizes."""
    for w in WINDOWS:
        for spec, expression in _over_windows(w, channels, spatial):
            yield Case(w.label, spec, partial(expression, w))
    yield from _others(channels, spatial)
