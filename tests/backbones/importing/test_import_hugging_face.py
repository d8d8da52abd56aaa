"""`backbone import` of Hugging Face-style folders."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.backbones.importing.conftest import Command
from tests.backbones.importing.graphs import CHANNELS, CONVOLUTION, HEAD, SIZE, node, write_onnx

from poolservice_server.backbones.folder import read_folder
from poolservice_server.backbones.importing import hugging_face
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.image_processor import read_processor

VALUES: dict[str, Any] = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}
# A processor that resizes both sides to the size of the networks in `graphs`.
VIT = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIZE, "width": SIZE},
    "resample": 2,
    **VALUES,
}


def _folder(path: Path, processor: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Path:
    (path / "onnx").mkdir(parents=True)
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("config", "size", "expected"),
    [
        (
            {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"shortest_edge": 224},
                "crop_size": {"height": 224, "width": 224},
                "resample": 3,
            },
            (224, 224),
            {"resize": "shortest", "size": 224, "filter": "bicubic", "crop_rounding": "floor"},
        ),
        (
            {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "resample": 3},
            (224, 224),
            {"resize": "shortest", "size": 224, "filter": "bicubic"},
        ),
        (
            {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}, "resample": 2},
            (224, 224),
            {"resize": "squash", "size": (224, 224), "filter": "bilinear", "crop": "none"},
        ),
        (
            {"image_processor_type": "ViTImageProcessorFast", "size": 384, "resample": 1, "return_tensors": None},
            (384, 384),
            {"resize": "squash", "size": (384, 384), "filter": "lanczos", "crop": "none"},
        ),
        (
            {
                "image_processor_type": "DeiTImageProcessor",
                "size": {"height": 256, "width": 256},
                "crop_size": {"height": 224, "width": 224},
                "resample": 3,
            },
            (224, 224),
            {"resize": "squash", "size": (256, 256), "filter": "bicubic"},
        ),
        (
            {
                "image_processor_type": "ConvNextImageProcessor",
                "size": {"shortest_edge": 224},
                "crop_pct": 0.875,
                "resample": 2,
            },
            (224, 224),
            {"resize": "shortest", "size": 256, "filter": "bilinear"},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "resample": 3},
            (384, 384),
            {"resize": "squash", "size": (384, 384), "filter": "bicubic", "crop": "none"},
        ),
        (
            {"image_processor_type": "BitImageProcessor", "do_resize": False, "crop_size": 32},
            (32, 32),
            {"resize": "none"},
        ),
    ],
)
def test_the_fields_of_an_image_processor_become_preprocessing(
    config: dict[str, Any], size: tuple[int, int], expected: dict[str, Any]
) -> None:
    rules = read_processor({**config, **VALUES})
    assert rules.image_size == size
    found = dict(rules.preset.fields)
    assert expected.items() <= found.items()
    assert (found["scale"], found["mean"], found["std"]) == (1 / 255, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_steps_that_are_off_are_left_out() -> None:
    rules = read_processor({**VIT, "do_rescale": False, "do_normalize": False})
    assert rules.preset.fields["scale"] == 1.0
    assert not {"mean", "std"} & rules.preset.fields.keys()


def test_channels_that_are_swapped() -> None:
    config: dict[str, Any] = {
        "image_processor_type": "MobileViTImageProcessor",
        "size": {"shortest_edge": 288},
        "crop_size": 256,
    }
    config["resample"] = 2
    assert read_processor(config).preset.channel_order == "BGR"
    with pytest.raises(ImportFailed, match="do_flip_channel_order and do_normalize"):
        read_processor({**config, **VALUES})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_processor_type": "LevitImageProcessor"}, "image_processor_type = "),
        ({"image_processor_type": None}, "image_processor_type = "),
        ({"do_pad": True}, "the field do_pad = True is not supported; remove it if the samples do not depend on it"),
        ({"ensure_multiple_of": 32}, "the field ensure_multiple_of = 32 is not supported"),
        ({"auto_map": {"AutoImageProcessor": "x.Y"}}, "the field auto_map"),
        ({"size": {"shortest_edge": 30, "longest_edge": 60}}, "size = "),
        ({"size": {"shortest_edge": 30}}, "without do_center_crop"),
        ({"size": None}, "the field size is missing"),
        ({"size": {"height": -1, "width": 2}}, "size must have whole numbers from 1 to 8192"),
        ({"size": {"height": 10**30, "width": 2}}, "size must have whole numbers from 1 to 8192"),
        ({"size": 0}, "size must be from 1 to 8192"),
        ({"do_center_crop": True}, "the field crop_size is missing"),
        ({"resample": 9}, "resample = 9 is not supported"),
        ({"resample": None}, "resample = None is not supported"),
        ({"resample": [2]}, r"resample = \[2\] is not supported"),
        ({"image_mean": None}, "the field image_mean must be a list of numbers"),
        ({"image_mean": [10**400]}, "the field image_mean must be a list of numbers"),
    ],
)
def test_a_field_that_is_not_supported_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ImportFailed, match=message):
        read_processor({**VIT, **change})


@pytest.mark.parametrize("fraction", ["0.9", 1e-320, -1, [1]])
def test_a_wrong_fraction_of_a_crop_is_named(fraction: object) -> None:
    config = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "resample": 3}
    with pytest.raises(ImportFailed, match=r"crop_pct must be 0\.01 or more; got "):
        read_processor({**config, **VALUES, "crop_pct": fraction})


def test_a_folder_with_a_convolutional_network(backbone: Command, tmp_path: Path) -> None:
    labels = {str(index): f"class {index}" for index in range(5)}
    folder = _folder(tmp_path / "hf", VIT, {"id2label": labels})
    write_onnx(folder / "onnx" / "model.onnx", input=("batch", 3, "height", "width"))
    assert backbone("import", folder).stdout.startswith(f"input pixels: 3 x {SIZE} x {SIZE}\n")
    done = backbone("import", folder, "-o", tmp_path / "t", "--name", "hf")
    assert done.status == 0, done.stderr
    imported = read_folder(tmp_path / "t", allow_code_models=False)
    assert (imported.manifest.input.height, imported.manifest.input.width) == (SIZE, SIZE)
    assert imported.manifest.preprocessing.mean == (0.1, 0.2, 0.3)
    assert imported.labels == tuple(labels.values())


def test_a_folder_with_a_vision_transformer(backbone: Command, tmp_path: Path) -> None:
    nodes = [
        *CONVOLUTION,
        node("Reshape", ["map", "flat"], "rows"),
        node("Transpose", ["rows"], "patches", perm=[0, 2, 1]),
        node("ReduceMean", ["patches", "axis"], "class_token", keepdims=1),
        node("Concat", ["class_token", "patches"], "last_hidden_state", axis=1),
        node("Flatten", ["class_token"], "pooler_output"),
    ]
    constants = {"flat": np.array([0, CHANNELS, 64], np.int64), "axis": np.array([1], np.int64)}
    outputs = {"last_hidden_state": ("batch", "sequence", CHANNELS), "pooler_output": ("batch", CHANNELS)}
    folder = _folder(tmp_path / "hf", VIT)
    write_onnx(folder / "model.onnx", nodes, outputs=outputs, constants=constants, input=("b", 3, "h", "w"))
    done = backbone("import", folder, "-o", tmp_path / "t")
    assert done.status == 0, done.stderr
    found = read_folder(tmp_path / "t", allow_code_models=False).manifest.outputs
    assert (found["features"].tensor, found["features"].grid) == ("last_hidden_state", (8, 8))
    assert (found["features"].prefix_tokens, found["pooler_output"].kind) == (1, "vector")


def test_flags_override_the_image_processor(backbone: Command, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "hf", VIT)
    write_onnx(folder / "model.onnx", [*CONVOLUTION, *HEAD])
    done = backbone("import", folder, "-o", tmp_path / "t", "--filter", "lanczos")
    assert done.status == 0, done.stderr
    preprocessing = read_folder(tmp_path / "t", allow_code_models=False).manifest.preprocessing
    assert (preprocessing.filter, preprocessing.std) == ("lanczos", (0.4, 0.5, 0.6))


def test_a_refused_field_comes_with_another_way_to_import(backbone: Command, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "hf", {**VIT, "foo_bar": 3})
    write_onnx(folder / "model.onnx")
    assert backbone("import", folder, "-o", tmp_path / "t").error == (
        f"{folder}/preprocessor_config.json: the field foo_bar = 3 is not supported; remove it if the samples do not "
        "depend on it; to state the preprocessing yourself, import the .onnx file instead of the folder, with "
        "--preprocessing"
    )
    done = backbone("import", folder / "model.onnx", "-o", tmp_path / "t", "--preprocessing", "timm")
    assert done.status == 0, done.stderr


def test_a_folder_that_lacks_a_file(backbone: Command, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "hf", VIT)
    assert "has none of onnx/model.onnx" in backbone("import", folder, "-o", tmp_path / "t").error
    for text in ("{", "[" * 100_000):
        (folder / "preprocessor_config.json").write_text(text)
        assert "is no JSON" in backbone("import", folder, "-o", tmp_path / "t").error
    (folder / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json" in backbone("import", folder, "-o", tmp_path / "t").error


def test_a_crop_fraction_overrides_the_size_of_the_image_processor(backbone: Command, tmp_path: Path) -> None:
    processor = {
        **VALUES,
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": SIZE},
        "crop_size": {"height": SIZE, "width": SIZE},
        "resample": 3,
    }
    folder = _folder(tmp_path / "hf", processor)
    write_onnx(folder / "model.onnx")
    done = backbone("import", folder, "-o", tmp_path / "t", "--crop-fraction", "0.5")
    assert done.status == 0, done.stderr
    assert read_folder(tmp_path / "t", allow_code_models=False).manifest.preprocessing.size == 2 * SIZE


def test_a_file_of_settings_has_a_limit(backbone: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face, "_MAX_JSON_BYTES", 100)
    folder = _folder(tmp_path / "hf", {**VIT, "comment": "x" * 100})
    done = backbone("import", folder, "-o", tmp_path / "t")
    assert done.error == f"{folder}/preprocessor_config.json: must have at most 100 bytes"
