"""Specs and samples of layers that other libraries also have. `generate_golden.py` calls the libraries."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from poolservice.specs import (
    AdaptiveAvgMaxPool2d,
    AdaptiveAvgPool2d,
    AdaptiveCatAvgMaxPool2d,
    AdaptiveMaxPool2d,
    AlphaSoftmaxPool2d,
    BlurPool1d,
    BlurPool2d,
    CovariancePool2d,
    CroW2d,
    GeMPool2d,
    LsePlus1d,
    LsePlus2d,
    LSEPool2d,
    MAC2d,
    MaskedAvgPool1d,
    MaskedMaxPool1d,
    MaxBlurPool2d,
    MedianPool1d,
    MedianPool2d,
    MedianPool3d,
    PoolFormerPool2d,
    PoolHead2d,
    PoolSpec,
    PowerAvgPool2d,
    PSRoIAlign2d,
    PSRoIPool2d,
    RankPool2d,
    RMAC2d,
    RoIAlign2d,
    RoIPool2d,
    SoftPool2d,
    SpectralPool1d,
    SpectralPool2d,
    SPoC2d,
    TrimmedMeanPool2d,
    WaveletPool1d,
    WaveletPool2d,
    WaveletPool3d,
)

Array = np.ndarray[Any, Any]


class Case(NamedTuple):
    """A layer and its samples.

    Attributes:
        spec: the layer with its parameters.
        shape: the shape (N, C, *) of the samples.
        rectified: True if negative values of the samples are 0, as after a ReLU.
    """

    spec: PoolSpec
    shape: tuple[int, ...]
    rectified: bool = False


class Head(NamedTuple):
    """A pool head.

    Attributes:
        kind: its kind.
        parameters: the table [parameters].
        shapes: the shape of each tensor.
    """

    kind: str
    parameters: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    def weights(self) -> dict[str, Array]:
        """Return its weights. A variance is at least 0.5."""
        weights = {name: numbers(f"{self.kind} {name}", shape, 1.0) for name, shape in self.shapes.items()}
        if "variance" in weights:
            weights["variance"] = np.abs(weights["variance"]) + np.float32(0.5)
        return weights


def numbers(name: str, shape: tuple[int, ...], limit: float = 4.0) -> Array:
    """Return float32 values within +-limit.

    They have the same bits with every version of numpy: the integers that a RandomState draws are fixed, and a float32
    holds each of them exactly.
    """
    drawn = np.random.RandomState(crc32(name.encode())).randint(-(2**23), 2**23, shape)
    return np.asarray(drawn * (limit / 2**23), np.float32)


def samples_of(case: Case) -> Array:
    """Return the samples of a case."""
    samples = numbers(str(case.shape), case.shape)
    return np.maximum(samples, 0) if case.rectified else samples


def _boxes(name: str, scale: float, *, inverted: bool = False) -> Array:
    """Return boxes (3, 7, 4) for maps of 11 by 13.

    They lie in the map and around it. The second one is empty, the third one covers more than the map, and the fourth
    one is outside. If float32 holds the scale exactly, the corners of the last two are multiples of half a pixel.
    """
    corners = numbers(name, (3, 7, 2, 2), 9.0) + np.float32(5)
    if not inverted:
        corners.sort(axis=2)
    corners[:, 1, 1] = corners[:, 1, 0]
    corners[:, 2] = (-3.0, -2.0), (17.0, 14.25)
    corners[:, 3] = (15.0, 2.0), (19.0, 6.0)
    if scale != 0.3:
        corners[:, 5:] = np.rint(2 * corners[:, 5:]) / 2
    return (corners.reshape(3, 7, 4) / scale).astype(np.float32)


def _box_cases() -> Iterator[tuple[str, Case]]:
    for ratio, scale, aligned in product((-1, 1, 2, 3), (1.0, 0.25, 0.3), (False, True)):
        bins = (2, 3) if aligned else (3, 1)
        # torchvision fails on inverted boxes if the number of points is that of the rows.
        boxes = _boxes(f"{ratio} {scale} {aligned}", scale, inverted=ratio > 0)
        yield "torchvision.ops.roi_align", Case(RoIAlign2d(boxes, bins, scale, ratio, aligned), (3, 2, 11, 13))
    for ratio, scale in product((-1, 1, 2), (1.0, 0.25, 0.3)):
        boxes = _boxes(f"{ratio} {scale}", scale)
        if ratio < 0:
            # A case of its own shows that torchvision's empty boxes give NaN.
            boxes[:, 1, 2:] += 1
        yield "torchvision.ops.ps_roi_align", Case(PSRoIAlign2d(boxes, (2, 3), scale, ratio), (3, 12, 11, 13))
    for scale, bins in product((1.0, 0.25, 0.3), ((1, 1), (3, 2), (4, 7))):
        boxes = _boxes(f"{scale} {bins}", scale, inverted=True)
        yield "torchvision.ops.roi_pool", Case(RoIPool2d(boxes, bins, scale), (3, 2, 11, 13))
    for scale, bins in product((1.0, 0.25, 0.3), ((1, 1), (3, 2), (2, 3))):
        boxes = _boxes(f"ps {scale} {bins}", scale, inverted=True)
        yield "torchvision.ops.ps_roi_pool", Case(PSRoIPool2d(boxes, bins, scale), (3, 12, 11, 13))


def _filter_cases() -> Iterator[tuple[str, Case]]:
    for kernel, stride, mode in product((1, 2, 3, 4, 5, 6, 7), (1, 2, 3), ("reflect", "replicate", "zeros")):
        shape = (1, 2, 9, 8)
        if (kernel + stride) % 3 == 0 or (kernel, stride) == (4, 2):
            yield "antialiased_cnns.BlurPool", Case(BlurPool2d(kernel, stride, mode), shape)
        if (kernel + stride) % 3 == 1 and mode != "zeros":
            yield "antialiased_cnns.BlurPool1D", Case(BlurPool1d(kernel, stride, mode), (1, 2, 13))
        if kernel in (3, 5, 7) and stride < 3:
            yield "timm.layers.BlurPool2d", Case(BlurPool2d(kernel, stride, mode), shape)
        if mode == "zeros":
            yield "kornia.filters.BlurPool2D", Case(BlurPool2d(kernel, stride, mode), shape)
    for kernel, stride, window in product((2, 3, 4, 5), (1, 2, 3), (2, 3)):
        if (kernel + stride + window) % 2:
            yield "kornia.filters.MaxBlurPool2D", Case(MaxBlurPool2d(kernel, stride, window, "zeros"), (1, 2, 9, 8))
    for kernel, window in product((3, 4, 5), (2, 3)):
        yield "antialiased_cnns.BlurPool of MaxPool2d", Case(MaxBlurPool2d(kernel, 2, window), (1, 2, 9, 8))
    for levels in (1, 2, 3):
        yield "pywt.wavedecn", Case(WaveletPool1d(levels), (2, 2, 11))
        yield "pywt.wavedecn", Case(WaveletPool2d(levels), (1, 2, 12, 9))
        yield "pywt.wavedecn", Case(WaveletPool3d(levels), (1, 2, 5, 6, 8))
    # For an even size, scipy weights the highest frequency differently.
    yield "scipy.signal.resample", Case(SpectralPool1d(5, norm="mean"), (2, 2, 12))
    yield "scipy.signal.resample", Case(SpectralPool1d(9, norm="mean"), (2, 2, 11))
    yield "scipy.signal.resample", Case(SpectralPool2d((3, 7), norm="mean"), (1, 2, 9, 8))


def _plane_cases() -> Iterator[tuple[str, Case]]:
    shape = (2, 3, 7, 9)
    selected: dict[str, Any] = {
        "avg": AdaptiveAvgPool2d,
        "max": AdaptiveMaxPool2d,
        "avgmax": AdaptiveAvgMaxPool2d,
        "catavgmax": AdaptiveCatAvgMaxPool2d,
    }
    for kind, layer in selected.items():
        for size in (1, 4, (3, 2), (7, 9)):
            yield f"timm.layers.SelectAdaptivePool2d, {kind}", Case(layer(size), shape)
        yield f"timm.layers.SelectAdaptivePool2d, fast{kind}", Case(layer(1), shape)
    for r in (0.5, 10.0, 50.0):
        yield "timm.layers.LsePlus2d", Case(LsePlus2d(r), shape)
        yield "timm.layers.LsePlus1d", Case(LsePlus1d(r), (2, 3, 20))
        yield "scipy.special.logsumexp", Case(LSEPool2d(r), shape)
    yield "timm.layers.LsePlus2d", Case(LsePlus2d(), shape)
    for p in (0.5, 1.0, 3.0, 7.5):
        yield "scipy.stats.pmean", Case(GeMPool2d(p), shape)
        yield "scipy.stats.pmean", Case(PowerAvgPool2d(p), shape)
    yield "scipy.special.softmax", Case(SoftPool2d(), shape)
    for alpha in (-2.0, 0.0, 0.5, 20.0):
        yield "scipy.special.softmax", Case(AlphaSoftmaxPool2d(alpha), shape)
    for share in (0.0, 0.1, 0.25, 0.45):
        yield "scipy.stats.trim_mean", Case(TrimmedMeanPool2d(proportiontocut=share), shape)


def _window_cases() -> Iterator[tuple[str, Case]]:
    shape = (2, 3, 7, 9)
    for kernel, stride in ((3, 1), (2, 2), ((3, 5), (2, 1)), (4, 3)):
        yield "timm.layers.MedianPool2d", Case(MedianPool2d(kernel, stride), shape)
    for kernel in (3, (1, 5)):
        yield "kornia.filters.median_blur", Case(MedianPool2d(kernel, 1), shape)
    yield "scipy.ndimage.median_filter", Case(MedianPool1d(5, 1), (2, 3, 20))
    yield "scipy.ndimage.median_filter", Case(MedianPool2d((3, 5), 1), shape)
    yield "scipy.ndimage.median_filter", Case(MedianPool3d(3, 1), (1, 2, 5, 6, 4))
    for rank in (1, 4, 15):
        yield "scipy.ndimage.rank_filter", Case(RankPool2d(rank, (3, 5), 1), shape)
    for size in (3, 5, 9):
        yield "timm.models.metaformer.Pooling", Case(PoolFormerPool2d(size), shape)
        yield "transformers.PoolFormerPooling", Case(PoolFormerPool2d(size), shape)


def _sequence_cases() -> Iterator[tuple[str, Case]]:
    mask = numbers("mask", (4, 15)) > 0
    yield "sentence_transformers.Pooling, mean", Case(MaskedAvgPool1d(mask), (4, 3, 15))
    yield "sentence_transformers.Pooling, mean", Case(MaskedAvgPool1d(lengths=[1, 7, 14, 15]), (4, 3, 15))
    yield "sentence_transformers.Pooling, max", Case(MaskedMaxPool1d(mask), (4, 3, 15))
    yield "sentence_transformers.Pooling, max", Case(MaskedMaxPool1d(lengths=[1, 7, 14, 15]), (4, 3, 15))


def _descriptor_cases() -> Iterator[tuple[str, Case]]:
    shape = (2, 6, 7, 9)
    for p in (1.0, 3.0, 4.5):
        yield "cirtorch.gem", Case(GeMPool2d(p), shape)
    yield "cirtorch.mac", Case(MAC2d(), shape)
    yield "cirtorch.spoc", Case(SPoC2d(), shape)
    for height, width in ((7, 9), (12, 5), (9, 9), (3, 20), (1, 4)):
        yield "cirtorch.rmac", Case(RMAC2d(), (2, 6, height, width), rectified=True)
    yield "cirtorch.rmac", Case(RMAC2d(levels=5), shape)
    yield "crow.apply_crow_aggregation", Case(CroW2d(), shape, rectified=True)
    yield "crow.apply_ucrow_aggregation", Case(SPoC2d(), shape, rectified=True)
    for iterations in (0, 1, 2, 5, 7):
        yield "MPNCOV", Case(CovariancePool2d(iterations), (2, 5, 6, 7))


_ATTENTION = {
    "positional_embedding": (10, 12),
    "q_proj.weight": (12, 12),
    "q_proj.bias": (12,),
    "k_proj.weight": (12, 12),
    "k_proj.bias": (12,),
    "v_proj.weight": (12, 12),
    "v_proj.bias": (12,),
    "c_proj.weight": (5, 12),
    "c_proj.bias": (5,),
}
_SIGLIP = {
    "probe": (1, 1, 8),
    "attention.in_proj_weight": (24, 8),
    "attention.in_proj_bias": (24,),
    "attention.out_proj.weight": (8, 8),
    "attention.out_proj.bias": (8,),
    "layernorm.weight": (8,),
    "layernorm.bias": (8,),
    "mlp.fc1.weight": (20, 8),
    "mlp.fc1.bias": (20,),
    "mlp.fc2.weight": (8, 20),
    "mlp.fc2.bias": (8,),
}
_SIMPOOL = {"norm_patches.weight": (8,), "norm_patches.bias": (8,), "wq.weight": (8, 8), "wk.weight": (8, 8)}
_GATED = {
    "attention_V.0.weight": (5, 7),
    "attention_V.0.bias": (5,),
    "attention_U.0.weight": (5, 7),
    "attention_U.0.bias": (5,),
    "attention_w.weight": (1, 5),
    "attention_w.bias": (1,),
}
_SALAD = {
    "token_features.0.weight": (512, 6),
    "token_features.0.bias": (512,),
    "token_features.2.weight": (3, 512),
    "token_features.2.bias": (3,),
    "cluster_features.0.weight": (512, 6, 1, 1),
    "cluster_features.0.bias": (512,),
    "cluster_features.3.weight": (5, 512, 1, 1),
    "cluster_features.3.bias": (5,),
    "score.0.weight": (512, 6, 1, 1),
    "score.0.bias": (512,),
    "score.3.weight": (4, 512, 1, 1),
    "score.3.bias": (4,),
    "dust_bin": (),
}
_MIXVPR = {
    **{
        f"mix.{number}.mix.{name}": shape
        for number in range(2)
        for name, shape in {
            "0.weight": (12,),
            "0.bias": (12,),
            "1.weight": (18, 12),
            "1.bias": (18,),
            "3.weight": (12, 18),
            "3.bias": (12,),
        }.items()
    },
    "channel_proj.weight": (5, 7),
    "channel_proj.bias": (5,),
    "row_proj.weight": (2, 12),
    "row_proj.bias": (2,),
}
_PCA = {"mean": (9,), "components": (4, 9), "variance": (4,)}
_NETVLAD = {"conv.weight": (5, 6, 1, 1), "centroids": (5, 6)}

#: Pool heads by name, with the shape of their samples and the libraries that have them.
HEADS: Mapping[str, tuple[Head, tuple[int, ...], tuple[str, ...]]] = {
    "clip": (
        Head("clip_attention_pool", {"num_heads": 3}, _ATTENTION),
        (2, 12, 3, 3),
        ("open_clip.AttentionPool2d", "timm.layers.AttentionPool2d"),
    ),
    "siglip": (
        Head("siglip_map", {"num_heads": 2}, _SIGLIP),
        (2, 8, 3, 5),
        (
            "transformers.SiglipMultiheadAttentionPoolingHead",
            "kornia.SigLip2MultiheadAttentionPoolingHead",
            "timm.layers.AttentionPoolLatent",
        ),
    ),
    "siglip-gelu": (
        Head("siglip_map", {"num_heads": 4, "activation": "gelu"}, _SIGLIP),
        (2, 8, 4, 2),
        ("timm.layers.AttentionPoolLatent",),
    ),
    "simpool": (Head("simpool", {}, _SIMPOOL), (2, 8, 4, 3), ("timm.layers.SimPool2d",)),
    "simpool-bias": (
        Head("simpool", {"num_heads": 2}, {**_SIMPOOL, "wq.bias": (8,), "wk.bias": (8,)}),
        (2, 8, 4, 3),
        ("timm.layers.SimPool2d",),
    ),
    "gated": (Head("gated_attention", {}, _GATED), (2, 7, 3, 4), ("torchmil.AttentionPool",)),
    "netvlad": (
        Head("netvlad", {}, {**_NETVLAD, "conv.bias": (5,)}),
        (2, 6, 4, 3),
        ("patchnetvlad.NetVLAD",),
    ),
    "netvlad-plain": (
        Head("netvlad", {"normalize_input": False}, _NETVLAD),
        (2, 6, 4, 3),
        ("patchnetvlad.NetVLAD",),
    ),
    "salad": (Head("salad", {"token": "first"}, _SALAD), (2, 6, 1, 13), ("SALAD",)),
    "mixvpr": (Head("mixvpr", {"height": 3, "width": 4, "mix_depth": 2}, _MIXVPR), (2, 7, 3, 4), ("MixVPR",)),
    "pca": (Head("pca_whitening", {}, _PCA), (3, 9, 1, 1), ("sklearn.decomposition.PCA",)),
}


def _head_cases() -> Iterator[tuple[str, Case]]:
    for name, (_, shape, libraries) in HEADS.items():
        for library in libraries:
            yield library, Case(PoolHead2d(name), shape)


def _numbered(*groups: Iterator[tuple[str, Case]]) -> dict[str, Case]:
    counts: dict[str, int] = {}
    cases = {}
    for group in groups:
        for reference, case in group:
            counts[reference] = counts.get(reference, 0) + 1
            cases[f"{reference}: {counts[reference]}"] = case
    return cases


#: The cases in which poolservice agrees with the library. A name is that of the library's function, and a number.
CASES: Mapping[str, Case] = _numbered(
    _box_cases(),
    _filter_cases(),
    _plane_cases(),
    _window_cases(),
    _sequence_cases(),
    _descriptor_cases(),
    _head_cases(),
)

#: The cases in which it differs. A name is that of the library's function, and the reason.
DIFFERENCES: Mapping[str, Case] = {
    "torchvision.ops.ps_roi_align: an empty box": Case(
        PSRoIAlign2d([[2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 6.0, 5.0]], (2, 3)), (3, 12, 11, 13)
    ),
    "torchvision.ops.roi_pool: 57 rows in 7 bins": Case(RoIPool2d([[0.0, 0.0, 3.0, 56.0]], (7, 1)), (1, 16, 60, 4)),
    "torchvision.ops.roi_pool: a corner near half a pixel": Case(
        RoIPool2d([[0.0, 0.0, np.float32(25 / 3), 9.0]], (1, 1), 0.3), (1, 16, 11, 13)
    ),
    "torchvision.ops.ps_roi_pool: 57 rows in 7 bins": Case(
        PSRoIPool2d([[0.0, 0.0, 4.0, 57.0]], (7, 1)), (1, 14, 60, 6)
    ),
    "timm.layers.BlurPool2d: an even filter": Case(BlurPool2d(4, 2), (1, 2, 9, 8)),
    "timm.layers.BlurPool2d: a stride of 3": Case(BlurPool2d(3, 3), (1, 2, 9, 8)),
    "timm.layers.BlurPool2d: a stride of 4": Case(BlurPool2d(2, 4, "zeros"), (1, 2, 9, 8)),
    "cirtorch.rmac: 5 by 9": Case(RMAC2d(), (2, 6, 5, 9), rectified=True),
    "scipy.signal.resample: an even size": Case(SpectralPool1d(6, norm="mean"), (2, 2, 12)),
}
