"""Complete backbone folders with a tiny network, and the same network in numpy."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

CHANNELS = 16
#: The vectors of the output "projected" have this many dimensions, and those of "whitened".
DIMENSIONS = 4


class TinyBackbone(NamedTuple):
    """A backbone folder that `tiny_backbone` wrote, and the parameters of its network.

    Attributes:
        path: the folder.
        name: the name of the backbone.
        input: (C, H, W) of a sample.
        nan_below: a sample whose mean is lower gives NaN; None if no sample does.
        weights: the parameters by name.
    """

    path: Path
    name: str
    input: tuple[int, int, int]
    nan_below: float | None
    weights: Mapping[str, np.ndarray]

    def normalized(self, samples: np.ndarray) -> np.ndarray:
        """Return uint8 samples (N, C, H, W) as the network takes them: (value / 255 - 0.5) / 0.25."""
        return ((samples.astype(np.float64) / 255 - 0.5) / 0.25).astype(np.float32)

    def numpy_reference(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        """Return each output for normalized samples (N, C, H, W), computed in numpy and float64.

        Outputs: features (N, 16, H / 4, W / 4), channels_last (the same, N, H / 4, W / 4, 16), tokens (N, 1 + H / 4 *
        W / 4, 16), embedding (N, 16), projected and whitened (N, 4), and with a head logits (N, classes).
        """
        weights = {name: array.astype(np.float64) for name, array in self.weights.items()}
        hidden = np.maximum(_convolve(samples.astype(np.float64), weights["conv1"], weights["bias1"]), 0)
        features = np.maximum(_convolve(hidden, weights["conv2"], weights["bias2"]), 0)
        if self.nan_below is not None:
            features[samples.mean(axis=(1, 2, 3)) < self.nan_below] = np.nan
        embedding = features.mean(axis=(2, 3))
        grid = features.reshape(*features.shape[:2], -1).transpose(0, 2, 1)
        outputs = {
            "features": features,
            "channels_last": features.transpose(0, 2, 3, 1),
            "tokens": np.concatenate((embedding[:, None], grid), axis=1),
            "embedding": embedding,
            "projected": embedding @ weights["projected.weight"].T + weights["projected.bias"],
            "whitened": (embedding - weights["whitened.mean"])
            @ weights["whitened.components"].T
            / np.sqrt(weights["whitened.variance"]),
        }
        if "head.weight" in weights:
            outputs["logits"] = embedding @ weights["head.weight"].T + weights["head.bias"]
        return outputs


def tiny_backbone(
    folder: Path,
    *,
    name: str = "tiny",
    classes: int = 5,
    labels: Sequence[str] | None = None,
    input: tuple[int, int, int] = (3, 32, 32),
    nan_below: float | None = None,
    engines: Sequence[str] = ("onnx",),
    preprocessing: str = 'resize = "shortest"\nsize = 36\n',
    logits: bool = False,
    seed: int = 7,
) -> TinyBackbone:
    """Write a complete backbone folder: two convolutions with relu, a global average, a head and projections.

    Args:
        folder: the new folder, which this creates with its parents.
        name: the name of the backbone.
        classes: the classes of the head; 0 for no head.
        labels: the names of the classes, by default class0, class1 and so on.
        input: (C, H, W) of a sample, with 1 or 3 channels and sides that are multiples of 4.
        nan_below: if the mean of a normalized sample is lower, all of its outputs are NaN. Black samples have the mean
            -2, white ones 2.
        engines: "onnx", "torch" or both. The architecture of torch is `tests.backbones.models:tiny_network`, which
            needs --allow-code-models, and has no `nan_below`.
        preprocessing: the lines of the table [preprocessing] before scale, mean and std.
        logits: whether the logits of the head are an output, too. Only the ONNX model has it.
        seed: of the random weights.
    """
    weights = _weights(input[0], classes, np.random.default_rng(seed))
    backbone = TinyBackbone(folder, name, input, nan_below, weights)
    folder.mkdir(parents=True, exist_ok=True)
    features = (input[1] // 4, input[2] // 4)
    toml = [
        "schema = 1",
        f'name = "{name}"',
        'description = "A tiny network for tests"',
        'licence = "Apache-2.0"',
        'source = "random weights"',
        'default_output = "features"',
        "[input]",
        f'height = {input[1]}\nwidth = {input[2]}\ncolor_mode = "{"RGB" if input[0] == 3 else "GRAY"}"',
        "[preprocessing]",
        preprocessing.rstrip("\n"),
        f"mean = {[0.5] * input[0]}\nstd = {[0.25] * input[0]}",
    ]
    if "onnx" in engines:
        model = _onnx_model(backbone, features, logits=logits)
        toml += ["[onnx]", _write(folder, "model.onnx", model.SerializeToString())]
    if "torch" in engines:
        state = {
            "hidden.0.weight": weights["conv1"],
            "hidden.0.bias": weights["bias1"],
            "features.0.weight": weights["conv2"],
            "features.0.bias": weights["bias2"],
        }
        toml += ["[torch]", _write(folder, "weights.safetensors", save(state))]
        toml += ['architecture = "tests.backbones.models:tiny_network"', f"arguments = {{ channels = {input[0]} }}"]
    toml += [
        '[outputs.features]\nkind = "map"\ntensor = "features"',
        '[outputs.embedding]\nkind = "vector"\ntensor = "embedding"',
        '[outputs.channels_last]\nkind = "map"\nlayout = "NHWC"\ntensor = "channels_last"',
        f'[outputs.tokens]\nkind = "tokens"\nprefix_tokens = 1\ngrid = {list(features)}\ntensor = "tokens"',
    ]
    if logits:
        toml += ['[outputs.logits]\nkind = "vector"\ntensor = "logits"']
    for projection, kind in (("projected", "linear"), ("whitened", "pca_whitening")):
        toml += [f'[outputs.{projection}]\nkind = "vector"\nsource = "features"\npool = "avg"']
        toml += [f'projection = "{projection}"', f'[projections.{projection}]\nkind = "{kind}"']
        toml += [_write(folder, f"{projection}.safetensors", _saved(weights, f"{projection}."))]
    if classes:
        names = [f"class{number}" for number in range(classes)] if labels is None else labels
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in names), encoding="utf-8")
        toml += ["[head]", 'output = "features"', 'labels = "labels.txt"']
        toml += [_write(folder, "head.safetensors", _saved(weights, "head."))]
    (folder / "backbone.toml").write_text("\n".join(toml) + "\n", encoding="utf-8")
    return backbone


def tiny_network(channels: int) -> Any:
    """Return the network as a torch module, whose submodules are named as the tensors of the ONNX graph."""
    from torch import Tensor, cat, nn

    class Tokens(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            grid = features.flatten(2)
            return cat((grid.mean(2, keepdim=True), grid), 2).transpose(1, 2)

    class ChannelsLast(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features.permute(0, 2, 3, 1)

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.ReLU())
            self.features = nn.Sequential(nn.Conv2d(8, CHANNELS, 3, stride=2, padding=1), nn.ReLU())
            self.channels_last = ChannelsLast()
            self.tokens = Tokens()
            self.embedding = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def forward(self, samples: Tensor) -> Any:
            features = self.features(self.hidden(samples))
            self.channels_last(features)
            self.tokens(features)
            return self.embedding(features)

    return Tiny()


def _weights(channels: int, classes: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {
        "conv1": (8, channels, 3, 3),
        "bias1": (8,),
        "conv2": (CHANNELS, 8, 3, 3),
        "bias2": (CHANNELS,),
        "projected.weight": (DIMENSIONS, CHANNELS),
        "projected.bias": (DIMENSIONS,),
        "whitened.mean": (CHANNELS,),
        "whitened.components": (DIMENSIONS, CHANNELS),
    }
    if classes:
        shapes |= {"head.weight": (classes, CHANNELS), "head.bias": (classes,)}
    weights = {
        name: (random.standard_normal(shape) / math.prod(shape[1:]) ** 0.5).astype(np.float32)
        for name, shape in shapes.items()
    }
    return weights | {"whitened.variance": random.uniform(0.5, 2, DIMENSIONS).astype(np.float32)}


def _onnx_model(backbone: TinyBackbone, features: tuple[int, int], *, logits: bool) -> onnx.ModelProto:
    convolution: Any = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["samples", "conv1", "bias1"], ["conv1.out"], **convolution),
        helper.make_node("Relu", ["conv1.out"], ["hidden"]),
        helper.make_node("Conv", ["hidden", "conv2", "bias2"], ["conv2.out"], **convolution),
        helper.make_node("Relu", ["conv2.out"], ["features" if backbone.nan_below is None else "finite"]),
        helper.make_node("GlobalAveragePool", ["features"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["embedding"]),
        helper.make_node("Transpose", ["features"], ["channels_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["channels_last", "grid"], ["grid_tokens"]),
        helper.make_node("Reshape", ["embedding", "one_token"], ["class_token"]),
        helper.make_node("Concat", ["class_token", "grid_tokens"], ["tokens"], axis=1),
    ]
    constants = {name: backbone.weights[name] for name in ("conv1", "bias1", "conv2", "bias2")}
    constants["grid"] = np.array([0, features[0] * features[1], CHANNELS], np.int64)
    constants["one_token"] = np.array([0, 1, CHANNELS], np.int64)
    if backbone.nan_below is not None:
        # The square root of a negative number is NaN, and for other samples the difference is 0.
        constants["nan_below"] = np.array(backbone.nan_below, np.float32)
        nodes += [
            helper.make_node("ReduceMean", ["samples"], ["sample_mean"], axes=[1, 2, 3], keepdims=1),
            helper.make_node("Sub", ["sample_mean", "nan_below"], ["margin"]),
            helper.make_node("Sqrt", ["margin"], ["root"]),
            helper.make_node("Sub", ["root", "root"], ["zero_or_nan"]),
            helper.make_node("Add", ["finite", "zero_or_nan"], ["features"]),
        ]
        nodes = [*nodes[:4], *nodes[10:], *nodes[4:10]]
    outputs: dict[str, list[int | str]] = {
        "features": ["N", CHANNELS, *features],
        "embedding": ["N", CHANNELS],
        "channels_last": ["N", *features, CHANNELS],
        "tokens": ["N", 1 + features[0] * features[1], CHANNELS],
    }
    if logits:
        constants |= {name: backbone.weights[name] for name in ("head.weight", "head.bias")}
        nodes.append(helper.make_node("Gemm", ["embedding", "head.weight", "head.bias"], ["logits"], transB=1))
        outputs["logits"] = ["N", len(backbone.weights["head.bias"])]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("samples", TensorProto.FLOAT, ["N", *backbone.input])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _convolve(samples: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Convolve 3 by 3, with stride 2 and one pixel of zero padding."""
    padded = np.pad(samples, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    convolved: np.ndarray = np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]
    return convolved


def _saved(weights: Mapping[str, np.ndarray], prefix: str) -> bytes:
    """Return the parameters whose names begin with the prefix as a safetensors file, without the prefix."""
    return save({name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)})


def _write(folder: Path, file: str, data: bytes) -> str:
    """Write a file and return the lines of the manifest that name it."""
    (folder / file).write_bytes(data)
    return f'file = "{file}"\nsha256 = "{hashlib.sha256(data).hexdigest()}"'
