"""The kinds of pool heads that attend to positions: CLIP's, SigLIP's, SimPool, gated attention."""

import math
from collections.abc import Mapping

from poolservice_server.backbones.linear import WrongTensors
from poolservice_server.pool_heads import parameters as tables
from poolservice_server.pool_heads.kind import MATRIX, PASS, VECTOR, Geometry, Kind, linear
from poolservice_server.pool_heads.tensors import Shape, Tensors


def _check_heads(channels: int, num_heads: int) -> None:
    if channels % num_heads:
        raise WrongTensors(f"has {channels} channels, which parameters.num_heads, {num_heads}, must divide")


def _clip_tensors(_parameters: object) -> Tensors:
    projections = [linear(f"{name}_proj", "C", "C") for name in "qkv"]
    needed: dict[str, Shape] = {"positional_embedding": ("P", "C")}
    for projection in (*projections, linear("c_proj", "D", "C")):
        needed |= projection
    return Tensors(needed, {})


def _clip_geometry(parameters: tables.ClipAttentionPool, sizes: Mapping[str, int]) -> Geometry:
    channels, heads = sizes["C"], parameters.num_heads
    _check_heads(channels, heads)
    side = math.isqrt(sizes["P"] - 1)
    if side < 1 or side * side != sizes["P"] - 1:
        raise WrongTensors(
            f"must have 1 + side * side positions in positional_embedding; it has {sizes['P']}, and no side gives that"
        )
    return Geometry(
        channels,
        sizes["D"],
        VECTOR * (3 * channels + sizes["D"]) * channels,
        2 * MATRIX * heads * channels + PASS * (channels + heads),
        2 * channels + 2 * heads,
        (side, side),
    )


def _siglip_tensors(_parameters: object) -> Tensors:
    needed: dict[str, Shape] = {
        "probe": (1, 1, "C"),
        "attention.in_proj_weight": ("3C", "C"),
        "attention.in_proj_bias": ("3C",),
        **linear("attention.out_proj", "C", "C"),
        "layernorm.weight": ("C",),
        "layernorm.bias": ("C",),
        **linear("mlp.fc1", "M", "C"),
        **linear("mlp.fc2", "C", "M"),
    }
    return Tensors(needed, {})


def _siglip_geometry(parameters: tables.SiglipMap, sizes: Mapping[str, int]) -> Geometry:
    channels, heads = sizes["C"], parameters.num_heads
    _check_heads(channels, heads)
    return Geometry(
        channels,
        channels,
        VECTOR * (4 * channels + 2 * sizes["M"]) * channels,
        2 * MATRIX * heads * channels + PASS * heads,
        2 * heads,
    )


def _simpool_tensors(parameters: tables.SimPool) -> Tensors:
    optional: dict[str, Shape] = {"wq.bias": ("C",), "wk.bias": ("C",)}
    if parameters.gamma is not None:
        optional["beta"] = (1,)
    needed: dict[str, Shape] = {
        "norm_patches.weight": ("C",),
        "norm_patches.bias": ("C",),
        "wq.weight": ("C", "C"),
        "wk.weight": ("C", "C"),
    }
    return Tensors(needed, optional)


def _simpool_geometry(parameters: tables.SimPool, sizes: Mapping[str, int]) -> Geometry:
    channels, heads = sizes["C"], parameters.num_heads
    _check_heads(channels, heads)
    powers = 0 if parameters.gamma is None else 3 * PASS
    return Geometry(
        channels,
        channels,
        VECTOR * 2 * channels * channels,
        MATRIX * heads * channels + (2 * PASS + powers) * channels,
        (2 if parameters.gamma is None else 3) * channels + 2 * heads,
    )


def _gated_tensors(_parameters: object) -> Tensors:
    return Tensors(
        linear("attention_V.0", "L", "C") | linear("attention_U.0", "L", "C") | linear("attention_w", "B", "L"), {}
    )


def _gated_geometry(_parameters: object, sizes: Mapping[str, int]) -> Geometry:
    channels, hidden, branches = sizes["C"], sizes["L"], sizes["B"]
    return Geometry(
        channels,
        branches * channels,
        VECTOR * branches * channels,
        MATRIX * (2 * hidden * channels + branches * (hidden + channels)) + 6 * PASS * hidden,
        2 * hidden + 2 * branches,
    )


CLIP_ATTENTION_POOL = Kind(tables.ClipAttentionPool, _clip_tensors, _clip_geometry)
SIGLIP_MAP = Kind(tables.SiglipMap, _siglip_tensors, _siglip_geometry)
SIMPOOL = Kind(tables.SimPool, _simpool_tensors, _simpool_geometry)
GATED_ATTENTION = Kind(tables.GatedAttention, _gated_tensors, _gated_geometry)
