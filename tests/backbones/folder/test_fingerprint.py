"""The fingerprint: it changes with everything that changes features, and with nothing else."""

import pytest
from tests.backbones.folder.example import EXAMPLE, replaced

from poolservice_server.backbones.fingerprint import fingerprint
from poolservice_server.backbones.manifest_file import parse_manifest


def of(content: bytes) -> str:
    return fingerprint(parse_manifest(content))


def test_a_fingerprint_is_the_same_in_every_release() -> None:
    # A vector in a database is traced to its backbone by this value. A change of the schema must not change it.
    assert of(EXAMPLE.encode()) == "446246dd68c6867f320ef58652d9b9a2"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # The models.
        ("a" * 64, "9" * 64),
        ("b" * 64, "9" * 64),
        ('input = "samples"', 'input = "image"'),
        ("c" * 64, "9" * 64),
        ("timm:resnet50", "timm:resnet34"),
        ("num_classes = 10", "num_classes = 11"),
        ("global_pool = false", "global_pool = 0"),
        ('gpu_precision = "float16"', 'gpu_precision = "bfloat16"'),
        ("d" * 64, "9" * 64),
        # The input.
        ("height = 224", "height = 256"),
        ("width = 192", "width = 256"),
        ('channel_order = "BGR"', ""),
        # Preprocessing.
        ('"shortest"', '"longest"'),
        ("size = 256", "size = 224"),
        ("size = 256", "size = [256, 256]"),
        ('rounding = "round"\nfilter', 'rounding = "ceil"\nfilter'),
        ('"bicubic"', '"bilinear"'),
        ('crop_rounding = "floor"', ""),
        ("fill = 114", "fill = 0"),
        ("fill = 114", "fill = [114, 114, 115]"),
        ("scale = 0.5", "scale = 0.25"),
        ("0.485", "0.486"),
        ("0.225", "0.2251"),
        # The outputs.
        ('default_output = "features"', 'default_output = "pooled"'),
        ('tensor = "layer4"', 'tensor = "layer3"'),
        ('module = "layers.4"', 'module = "layers.3"'),
        ('layout = "NHWC"', 'layout = "NCHW"'),
        ("prefix_tokens = 1", "prefix_tokens = 0"),
        ("grid = [14, 12]", "grid = [12, 14]"),
        ("[outputs.pooled]", '[outputs.other]\nkind = "map"\ntensor = "x"\n[outputs.pooled]'),
        ('pool = "avg"', 'pool = "max"'),
        ('source = "features"\npool', 'source = "patches"\npool'),
        # The head and the projections.
        ("e" * 64, "9" * 64),
        ('output = "features"\nlabels', 'output = "patches"\nlabels'),
        ("f" * 64, "9" * 64),
        ('"linear"', '"pca_whitening"'),
        ("0" * 64, "9" * 64),
    ],
)
def test_it_changes_with_what_changes_features(old: str, new: str) -> None:
    assert of(replaced(old, new)) != of(EXAMPLE.encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "resnet50"', 'name = "other"'),
        ('description = "ResNet-50, trained on ImageNet"', 'description = "Another text"'),
        ('licence = "Apache-2.0"', 'licence = "MIT"'),
        ('"https://example.org/resnet50"', '"elsewhere"'),
        ('"model.onnx"', '"models/renamed.onnx"'),
        ('"model.data"', '"renamed.data"'),
        ('"weights/model.safetensors"', '"renamed.safetensors"'),
        ('"model.pt2"', '"renamed.pt2"'),
        ('"head.safetensors"', '"renamed.safetensors"'),
        ('labels = "labels.txt"', ""),
        ('"small.safetensors"', '"renamed.safetensors"'),
        # Another way to write the same.
        ("scale = 0.5", "scale = 5e-1"),
        ('color_mode = "RGB"', ""),
        ("antialias = true", ""),
        ("height = 224\nwidth = 192", "width = 192 # columns\nheight = 224"),
    ],
)
def test_it_does_not_change_with_anything_else(old: str, new: str) -> None:
    assert of(replaced(old, new)) == of(EXAMPLE.encode())
