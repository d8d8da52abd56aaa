"""A `backbone.toml` that has every table and every key, and its variations."""

import pytest

from poolservice_server.backbones.manifest_file import WrongManifest, parse_manifest

_HASH = {letter: letter * 64 for letter in "abcdef"}

EXAMPLE = f"""
schema = 1
name = "resnet50"
description = "ResNet-50, trained on ImageNet"
licence = "Apache-2.0"
source = "https://example.org/resnet50"
default_output = "features"

[onnx]
file = "model.onnx"
sha256 = "{_HASH["a"]}"
external_data = [{{ file = "model.data", sha256 = "{_HASH["b"]}" }}]
input = "samples"

[torch]
file = "weights/model.safetensors"
sha256 = "{_HASH["c"]}"
architecture = "timm:resnet50"
arguments = {{ num_classes = 10, act_layer = "relu", drop_rate = 0.0, global_pool = false }}
gpu_precision = "float16"

[program]
file = "model.pt2"
sha256 = "{_HASH["d"]}"

[input]
height = 224
width = 192
color_mode = "RGB"
channel_order = "BGR"

[preprocessing]
resize = "shortest"
size = 256
rounding = "round"
filter = "bicubic"
antialias = true
crop = "center"
crop_rounding = "floor"
fill = 114
scale = 0.5
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]

[outputs.features]
kind = "map"
tensor = "layer4"
module = "layers.4"
layout = "NHWC"

[outputs.patches]
kind = "tokens"
tensor = "tokens"
prefix_tokens = 1
grid = [14, 12]

[outputs.pooled]
kind = "vector"
tensor = "pooled"

[outputs.small]
kind = "vector"
source = "features"
pool = "avg"
projection = "small"

[outputs.white]
kind = "vector"
source = "pooled"
projection = "white"

[head]
file = "head.safetensors"
sha256 = "{_HASH["e"]}"
output = "features"
labels = "labels.txt"

[projections.small]
kind = "linear"
file = "small.safetensors"
sha256 = "{_HASH["f"]}"

[projections.white]
kind = "pca_whitening"
file = "white.safetensors"
sha256 = "{"0" * 64}"
"""


def replaced(*pairs: str) -> bytes:
    """Return the example with each first text of a pair of texts, which it has once, replaced by the second one."""
    text = EXAMPLE
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the example"
        text = text.replace(old, new)
    return text.encode()


def refusal(content: bytes) -> str:
    """Return the sentence about a wrong `backbone.toml`."""
    with pytest.raises(WrongManifest) as refused:
        parse_manifest(content)
    return str(refused.value)
