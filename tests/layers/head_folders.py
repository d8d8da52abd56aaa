"""Folders of pool heads with small random weights, and the vector of each in numpy and float64.

The references follow the code of the authors position by position: every key and value is computed.
"""

import hashlib
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from poolservice_server.backbones.importing.toml_text import toml_text
from poolservice_server.pool_heads.folder import read_head
from poolservice_server.pool_heads.head import PoolHead, PoolHeads

Weights = Mapping[str, np.ndarray]


class HeadExample(NamedTuple):
    """A head with random weights.

    Attributes:
        kind: its kind.
        parameters: the table [parameters].
        shapes: the shape of each tensor.
        sample: the shape of a sample.
        reference: returns its vector for a sample (C, H, W) in float64.
    """

    kind: str
    parameters: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    sample: tuple[int, ...]
    reference: Callable[[Weights, np.ndarray], np.ndarray]

    def weights(self, seed: int = 1) -> dict[str, np.ndarray]:
        """Return random weights: variances are positive, and others have a standard deviation of 0.5."""
        generator = np.random.default_rng(seed)
        return {
            name: np.asarray(
                generator.uniform(0.5, 2, shape) if name == "variance" else 0.5 * generator.standard_normal(shape),
                np.float32,
            )
            for name, shape in self.shapes.items()
        }

    def write(self, folder: Path, weights: Weights | None = None, **changes: Any) -> Path:
        """Write the folder of the head, with other entries of head.toml; return it."""
        folder.mkdir(parents=True)
        content = save(dict(self.weights() if weights is None else weights))
        (folder / "head.safetensors").write_bytes(content)
        manifest = {
            "schema": 1,
            "kind": self.kind,
            "licence": "MIT",
            "source": "random numbers",
            "sha256": hashlib.sha256(content).hexdigest(),
            **({"parameters": self.parameters} if self.parameters else {}),
            **changes,
        }
        (folder / "head.toml").write_text(toml_text(manifest))
        return folder

    def load(self) -> PoolHead:
        """Return the head as a server would load it."""
        with tempfile.TemporaryDirectory() as folder:
            return read_head(self.write(Path(folder) / self.kind), self.kind)


def _linear(name: str, out: int, taken: int, *kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, taken, *kernel), f"{name}.bias": (out,)}


def _apply(weights: Weights, name: str, x: np.ndarray) -> Any:
    """Return a linear layer, or a convolution with a kernel of 1, of rows (P, C)."""
    weight = weights[f"{name}.weight"]
    return x @ weight.reshape(len(weight), -1).T + weights[f"{name}.bias"]


def _softmax(x: np.ndarray, axis: int) -> Any:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _norm(x: np.ndarray, axis: int = -1) -> Any:
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


def _layer_norm(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, eps: float) -> Any:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * scale + shift


def _rows(sample: np.ndarray) -> Any:
    return sample.reshape(len(sample), -1).T


def _attention(query: np.ndarray, keys: np.ndarray, values: np.ndarray, heads: int) -> Any:
    size = len(query) // heads
    parts = []
    for head in range(heads):
        of_head = slice(head * size, (head + 1) * size)
        scores = keys[:, of_head] @ query[of_head] / math.sqrt(size)
        parts.append(_softmax(scores, 0) @ values[:, of_head])
    return np.concatenate(parts)


def _clip(weights: Weights, sample: np.ndarray) -> Any:
    rows = _rows(sample)
    rows = np.concatenate([rows.mean(0, keepdims=True), rows]) + weights["positional_embedding"]
    query, keys, values = (_apply(weights, f"{name}_proj", rows) for name in "qkv")
    return _apply(weights, "c_proj", _attention(query[0], keys, values, 3))


def _siglip(weights: Weights, sample: np.ndarray, *, tanh: bool = True, eps: float = 1e-6) -> Any:
    rows, channels = _rows(sample), len(sample)
    in_weight, in_bias = weights["attention.in_proj_weight"], weights["attention.in_proj_bias"]
    query = in_weight[:channels] @ weights["probe"][0, 0] + in_bias[:channels]
    keys = rows @ in_weight[channels : 2 * channels].T + in_bias[channels : 2 * channels]
    values = rows @ in_weight[2 * channels :].T + in_bias[2 * channels :]
    result = _apply(weights, "attention.out_proj", _attention(query, keys, values, 2))
    hidden = _apply(
        weights, "mlp.fc1", _layer_norm(result, weights["layernorm.weight"], weights["layernorm.bias"], eps)
    )
    if tanh:
        cube = 0.044715 * hidden**3
        activated = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + cube)))
    else:
        activated = np.array([0.5 * one * (1 + math.erf(one / math.sqrt(2))) for one in hidden])
    return result + _apply(weights, "mlp.fc2", activated)


def _simpool(
    weights: Weights, sample: np.ndarray, *, heads: int = 1, gamma: float | None = None, eps: float = 1e-6
) -> Any:
    rows = _rows(sample)
    normalized = _layer_norm(rows, weights["norm_patches.weight"], weights["norm_patches.bias"], eps)
    query = weights["wq.weight"] @ rows.mean(0) + weights.get("wq.bias", 0)
    keys = normalized @ weights["wk.weight"].T + weights.get("wk.bias", 0)
    if gamma is None:
        return _attention(query, keys, normalized, heads)
    powers = (normalized - normalized.min() + 1e-6) ** gamma
    return _attention(query, keys, powers, heads) ** (1 / gamma) + weights["beta"]


def _gated(weights: Weights, sample: np.ndarray) -> Any:
    rows = _rows(sample)
    gates = np.tanh(_apply(weights, "attention_V.0", rows)) / (1 + np.exp(-_apply(weights, "attention_U.0", rows)))
    return (_softmax(_apply(weights, "attention_w", gates), 0).T @ rows).ravel()


def _netvlad(weights: Weights, sample: np.ndarray, *, normalize: bool = True) -> Any:
    rows = _norm(_rows(sample)) if normalize else _rows(sample)
    centers = weights["centroids"]
    scores = rows @ weights["conv.weight"].reshape(centers.shape).T + weights.get("conv.bias", 0)
    assigned = _softmax(scores, 1)
    sums = [(assigned[:, [k]] * (rows - center)).sum(0) for k, center in enumerate(centers)]
    return _norm(_norm(np.stack(sums)).ravel())


def _mixvpr(weights: Weights, sample: np.ndarray, *, eps: float = 1e-5) -> Any:
    x = sample.reshape(len(sample), -1)
    for number in range(2):
        mixer = f"mix.{number}.mix"
        hidden = _layer_norm(x, weights[f"{mixer}.0.weight"], weights[f"{mixer}.0.bias"], eps)
        x = x + _apply(weights, f"{mixer}.3", np.maximum(_apply(weights, f"{mixer}.1", hidden), 0))
    x = _apply(weights, "channel_proj", x.T).T
    return _norm(_apply(weights, "row_proj", x).ravel())


def _salad(weights: Weights, sample: np.ndarray, *, token: str) -> Any:
    rows = _rows(sample)
    global_token = rows[0] if token == "first" else rows.mean(0)
    rows = rows[1:] if token == "first" else rows
    features = _apply(weights, "cluster_features.3", np.maximum(_apply(weights, "cluster_features.0", rows), 0))
    scores = _apply(weights, "score.3", np.maximum(_apply(weights, "score.0", rows), 0))
    positions, clusters = scores.shape
    augmented = np.concatenate([scores.T, np.full((1, positions), weights["dust_bin"])])
    masses = np.ones(clusters + 1)
    masses[-1] = positions - clusters
    v = np.zeros(positions)
    norm = math.log(positions + clusters)
    for _ in range(3):
        u = np.log(masses) - norm - np.log(np.exp(augmented + v).sum(1))
        v = -norm - np.log(np.exp(augmented + u[:, None]).sum(0))
    transported = np.exp(augmented + u[:, None] + v + norm)[:-1]
    # The authors' vector has the features of the first cluster dimension first.
    parts = [_norm(features.T @ transported.T, 0).ravel()]
    if token != "none":
        hidden = np.maximum(_apply(weights, "token_features.0", global_token), 0)
        parts.insert(0, _norm(_apply(weights, "token_features.2", hidden)))
    return _norm(np.concatenate(parts))


def _pca(weights: Weights, sample: np.ndarray, *, normalize: bool = False) -> Any:
    result = weights["components"] @ (sample.ravel() - weights["mean"]) / np.sqrt(weights["variance"])
    return _norm(result) if normalize else result


_SIGLIP = {
    "probe": (1, 1, 8),
    "attention.in_proj_weight": (24, 8),
    "attention.in_proj_bias": (24,),
    **_linear("attention.out_proj", 8, 8),
    "layernorm.weight": (8,),
    "layernorm.bias": (8,),
    **_linear("mlp.fc1", 20, 8),
    **_linear("mlp.fc2", 8, 20),
}
_SIMPOOL = {"norm_patches.weight": (8,), "norm_patches.bias": (8,), "wq.weight": (8, 8), "wk.weight": (8, 8)}
_GRID = {"height": 3, "width": 4, "mix_depth": 2}
_MIXVPR = {
    **{
        key: shape
        for number in range(2)
        for key, shape in {
            f"mix.{number}.mix.0.weight": (12,),
            f"mix.{number}.mix.0.bias": (12,),
            **_linear(f"mix.{number}.mix.1", 18, 12),
            **_linear(f"mix.{number}.mix.3", 12, 18),
        }.items()
    },
    **_linear("channel_proj", 5, 7),
    **_linear("row_proj", 2, 12),
}
_SALAD = {
    **_linear("cluster_features.0", 9, 6, 1, 1),
    **_linear("cluster_features.3", 5, 9, 1, 1),
    **_linear("score.0", 7, 6, 1, 1),
    **_linear("score.3", 4, 7, 1, 1),
    "dust_bin": (),
}
_TOKEN = {**_linear("token_features.0", 7, 6), **_linear("token_features.2", 3, 7)}
_PCA = {"mean": (9,), "components": (4, 9), "variance": (4,)}

#: By a name.
HEADS: Mapping[str, HeadExample] = {
    "clip": HeadExample(
        "clip_attention_pool",
        {"num_heads": 3},
        {
            "positional_embedding": (17, 12),
            **{key: shape for name in "qkv" for key, shape in _linear(f"{name}_proj", 12, 12).items()},
            **_linear("c_proj", 5, 12),
        },
        (12, 4, 4),
        _clip,
    ),
    "siglip": HeadExample("siglip_map", {"num_heads": 2}, _SIGLIP, (8, 3, 5), _siglip),
    "siglip-gelu": HeadExample(
        "siglip_map",
        {"num_heads": 2, "activation": "gelu"},
        _SIGLIP,
        (8, 2, 3),
        lambda weights, sample: _siglip(weights, sample, tanh=False),
    ),
    "simpool": HeadExample("simpool", {}, _SIMPOOL, (8, 4, 3), _simpool),
    "simpool-gamma": HeadExample(
        "simpool",
        {"num_heads": 2, "gamma": 1.25},
        {**_SIMPOOL, "wq.bias": (8,), "wk.bias": (8,), "beta": (1,)},
        (8, 4, 3),
        lambda weights, sample: _simpool(weights, sample, heads=2, gamma=1.25),
    ),
    "gated": HeadExample(
        "gated_attention",
        {},
        {**_linear("attention_V.0", 5, 7), **_linear("attention_U.0", 5, 7), **_linear("attention_w", 2, 5)},
        (7, 3, 4),
        _gated,
    ),
    "netvlad": HeadExample(
        "netvlad", {}, {"conv.weight": (5, 6, 1, 1), "conv.bias": (5,), "centroids": (5, 6)}, (6, 4, 3), _netvlad
    ),
    "netvlad-plain": HeadExample(
        "netvlad",
        {"normalize_input": False},
        {"conv.weight": (5, 6, 1, 1), "centroids": (5, 6)},
        (6, 4, 3),
        lambda weights, sample: _netvlad(weights, sample, normalize=False),
    ),
    "mixvpr": HeadExample("mixvpr", _GRID, _MIXVPR, (7, 3, 4), _mixvpr),
    "salad": HeadExample(
        "salad",
        {"token": "first"},
        {**_SALAD, **_TOKEN},
        (6, 1, 13),
        lambda weights, sample: _salad(weights, sample, token="first"),
    ),
    "salad-mean": HeadExample(
        "salad",
        {"token": "mean"},
        {**_SALAD, **_TOKEN},
        (6, 3, 4),
        lambda weights, sample: _salad(weights, sample, token="mean"),
    ),
    "salad-local": HeadExample(
        "salad",
        {"token": "none"},
        _SALAD,
        (6, 3, 4),
        lambda weights, sample: _salad(weights, sample, token="none"),
    ),
    "pca": HeadExample("pca_whitening", {}, _PCA, (9, 1, 1), _pca),
    "pca-normalized": HeadExample(
        "pca_whitening",
        {"normalize": True},
        _PCA,
        (9, 1, 1),
        lambda weights, sample: _pca(weights, sample, normalize=True),
    ),
}

#: Heads with a large epsilon. SimPool's exponent is small, so that what is added before the power makes a difference.
SMOOTH_HEADS: Mapping[str, HeadExample] = {
    "siglip": HEADS["siglip"]._replace(
        parameters={"num_heads": 2, "layer_norm_eps": 0.25},
        reference=lambda weights, sample: _siglip(weights, sample, eps=0.25),
    ),
    "simpool": HEADS["simpool"]._replace(
        parameters={"gamma": 0.25, "layer_norm_eps": 0.25},
        shapes={**_SIMPOOL, "beta": (1,)},
        reference=lambda weights, sample: _simpool(weights, sample, gamma=0.25, eps=0.25),
    ),
    "mixvpr": HEADS["mixvpr"]._replace(
        parameters={**_GRID, "layer_norm_eps": 0.25},
        reference=lambda weights, sample: _mixvpr(weights, sample, eps=0.25),
    ),
}

#: What a server would have of these heads, and of one for vectors of 15 channels.
PCA_OF_15 = HEADS["pca"]._replace(shapes={"mean": (15,), "components": (4, 15), "variance": (4,)})
POOL_HEADS = PoolHeads({**{name: example.load() for name, example in HEADS.items()}, "pca-of-15": PCA_OF_15.load()})
