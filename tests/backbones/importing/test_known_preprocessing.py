"""The preprocessing that the import derives is that of the reference pipelines, whose pixels other tests compare."""

from typing import Any

import pytest
from tests.backbones.preprocessing.pipelines import PIPELINES

from poolservice_server.backbones.importing.image_processor import read_processor
from poolservice_server.backbones.importing.presets import PRESETS, PreprocessingFlags, Preset, preprocessing_of
from poolservice_server.backbones.importing.timm_import import timm_preset

_HALF = [0.5, 0.5, 0.5]
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _check(pipeline: str, preset: Preset, size: tuple[int, int]) -> None:
    found = preprocessing_of(PreprocessingFlags(), (3, *size), preset)
    expected_input, expected = PIPELINES[pipeline]
    assert found[0] == expected_input
    preprocessing = found[1]
    # A crop to the size that the image has, and a size that is the input's, change nothing.
    ignored = {"crop", "size", "crop_rounding"} if expected.resize == "squash" and expected.size is None else set()
    if expected.resize == "squash":
        ignored.add("crop_rounding")
    assert preprocessing.model_dump(exclude=ignored) == expected.model_dump(exclude=ignored)
    if "size" in ignored:
        assert preprocessing.size in (None, size)


@pytest.mark.parametrize(
    ("pipeline", "preset"),
    [
        ("torchvision, resize 256, crop 224", "torchvision"),
        ("torchvision, resize 232, crop 224", "torchvision-v2"),
        ("timm, crop_pct 0.875", "timm"),
    ],
)
def test_presets(pipeline: str, preset: str) -> None:
    _check(pipeline, PRESETS[preset], (224, 224))


@pytest.mark.parametrize(
    ("pipeline", "size", "config"),
    [
        ("timm, crop_pct 0.875", (224, 224), {"crop_pct": 0.875}),
        ("timm, crop_pct 0.9", (224, 224), {"crop_pct": 0.9}),
        ("timm, crop_pct 1.0", (224, 224), {"crop_pct": 1.0, "mean": _HALF, "std": _HALF}),
        ("timm, lanczos", (160, 160), {"crop_pct": 1.0, "interpolation": "lanczos"}),
        ("timm, 224 x 192", (224, 192), {"crop_pct": 0.9}),
        ("timm, squash", (224, 224), {"crop_pct": 0.95, "crop_mode": "squash"}),
        ("timm, border", (224, 224), {"crop_pct": 1.0, "crop_mode": "border"}),
    ],
)
def test_configurations_of_timm(pipeline: str, size: tuple[int, int], config: dict[str, Any]) -> None:
    complete = {"interpolation": "bicubic", "crop_mode": "center", **_IMAGENET, **config}
    _check(pipeline, timm_preset(complete, size, "a network"), size)


@pytest.mark.parametrize(
    ("pipeline", "config"),
    [
        ("ViTImageProcessor", {"size": {"height": 224, "width": 224}, "resample": 2}),
        (
            "CLIPImageProcessor",
            {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "resample": 3},
        ),
        ("CLIPImageProcessor, crop only", {"do_resize": False, "crop_size": {"height": 224, "width": 224}}),
        ("ConvNextImageProcessor, 224", {"size": {"shortest_edge": 224}, "crop_pct": 224 / 256, "resample": 3}),
        ("ConvNextImageProcessor, 384", {"size": {"shortest_edge": 384}, "crop_pct": 224 / 256, "resample": 3}),
    ],
)
def test_image_processors_of_hugging_face(pipeline: str, config: dict[str, Any]) -> None:
    _, expected = PIPELINES[pipeline]
    values = {"image_mean": list(expected.mean), "image_std": list(expected.std)}
    rules = read_processor({"image_processor_type": pipeline.partition(",")[0], **config, **values})
    _check(pipeline, rules.preset, rules.image_size)


def test_another_resize_does_not_keep_the_size_of_the_preset() -> None:
    known = Preset("a network", 0.5, {"resize": "shortest", "size": 300})
    _, preprocessing = preprocessing_of(PreprocessingFlags(fields={"resize": "squash"}), (3, 224, 192), known)
    assert preprocessing.size is None


@pytest.mark.parametrize(("size", "expected"), [(300, 384), ((300, 300), (448, 384))])
def test_a_crop_fraction_replaces_each_side_of_the_known_size(size: object, expected: object) -> None:
    known = Preset("a network", 0.9, {"resize": "shortest", "size": size})
    _, preprocessing = preprocessing_of(PreprocessingFlags(crop_fraction=0.5), (3, 224, 192), known)
    assert preprocessing.size == expected
