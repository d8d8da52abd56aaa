"""The kinds of pool heads that aggregate positions: NetVLAD, MixVPR, SALAD; and PCA whitening of a vector."""

from collections.abc import Mapping

from poolservice_server.backbones.linear import WrongTensors
from poolservice_server.pool_heads import parameters as tables
from poolservice_server.pool_heads.kind import MATRIX, PASS, VECTOR, Geometry, Kind, linear
from poolservice_server.pool_heads.tensors import Tensors


def _netvlad_tensors(_parameters: object) -> Tensors:
    return Tensors({"conv.weight": ("K", "C", 1, 1), "centroids": ("K", "C")}, {"conv.bias": ("K",)})


def _netvlad_geometry(_parameters: object, sizes: Mapping[str, int]) -> Geometry:
    channels, clusters = sizes["C"], sizes["K"]
    results = channels * clusters
    return Geometry(
        channels,
        results,
        PASS * 2 * results,
        2 * MATRIX * results + PASS * (channels + clusters),
        channels + 3 * clusters,
    )


def _mixvpr_tensors(parameters: tables.MixVpr) -> Tensors:
    needed = linear("channel_proj", "D", "C") | linear("row_proj", "R", "P")
    for number in range(parameters.mix_depth):
        mixer = f"mix.{number}.mix"
        needed |= {f"{mixer}.0.weight": ("P",), f"{mixer}.0.bias": ("P",)}
        needed |= linear(f"{mixer}.1", "M", "P") | linear(f"{mixer}.3", "P", "M")
    return Tensors(needed, {})


def _mixvpr_geometry(parameters: tables.MixVpr, sizes: Mapping[str, int]) -> Geometry:
    positions = parameters.height * parameters.width
    if sizes["P"] != positions:
        raise WrongTensors(
            f"has weights for {sizes['P']} positions; parameters.height * parameters.width is {positions}"
        )
    channels, results, rows, hidden = sizes["C"], sizes["D"], sizes["R"], sizes["M"]
    mixer = channels * (2 * MATRIX * hidden + 3 * PASS)
    return Geometry(
        channels,
        results * rows,
        0,
        parameters.mix_depth * mixer + MATRIX * results * (channels + rows),
        channels * (3 + hidden / positions) + results,
        (parameters.height, parameters.width),
    )


def _salad_tensors(parameters: tables.Salad) -> Tensors:
    kind = parameters.token
    needed = (
        linear("cluster_features.0", "F", "C", 1, 1)
        | linear("cluster_features.3", "L", "F", 1, 1)
        | linear("score.0", "S", "C", 1, 1)
        | linear("score.3", "K", "S", 1, 1)
        | {"dust_bin": ()}
    )
    if kind != "none":
        needed |= linear("token_features.0", "T", "C") | linear("token_features.2", "G", "T")
    return Tensors(needed, {})


def _salad_geometry(parameters: tables.Salad, sizes: Mapping[str, int]) -> Geometry:
    channels, clusters, features = sizes["C"], sizes["K"], sizes["L"]
    token, hidden = sizes.get("G", 0), sizes.get("T", 0)
    # The first position is the token, and the others are copied.
    kind = parameters.token
    copies = int(kind == "first")
    products = sizes["F"] * (channels + features) + sizes["S"] * (channels + clusters) + clusters * features
    return Geometry(
        channels,
        token + clusters * features,
        VECTOR * hidden * (channels + token) + 2 * PASS * clusters * features,
        MATRIX * products + 6 * PASS * clusters * (parameters.iterations + 1),
        features + max(sizes["F"], sizes["S"] + clusters, 5 * clusters) + channels * copies,
        # More positions than clusters, besides the token.
        min_positions=clusters + 1 + copies,
    )


def _pca_tensors(_parameters: object) -> Tensors:
    return Tensors({"components": ("D", "C"), "mean": ("C",), "variance": ("D",)}, {})


def _pca_geometry(_parameters: object, sizes: Mapping[str, int]) -> Geometry:
    return Geometry(
        sizes["C"], sizes["D"], VECTOR * sizes["C"] * sizes["D"], 0, 2 * sizes["C"], (1, 1), takes_vectors=True
    )


NETVLAD = Kind(tables.NetVlad, _netvlad_tensors, _netvlad_geometry)
MIXVPR = Kind(tables.MixVpr, _mixvpr_tensors, _mixvpr_geometry)
SALAD = Kind(tables.Salad, _salad_tensors, _salad_geometry)
PCA_WHITENING = Kind(tables.PcaWhitening, _pca_tensors, _pca_geometry)
