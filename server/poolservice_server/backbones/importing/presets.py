"""Preprocessing that published weights share, and the flags that change it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.manifest_file import explain
from poolservice_server.backbones.manifest_tables import Input, Preprocessing
from poolservice_server.settings.errors import did_you_mean

#: The least side of a crop in relation to the resized side. A much smaller one has no finite quotient.
LEAST_FRACTION = 0.01
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclass(frozen=True, slots=True)
class Preset:
    """The preprocessing of published weights.

    Attributes:
        description: whose it is.
        crop_fraction: the side of the crop in relation to the side to which the image is resized before.
        fields: the fields of `Preprocessing` that differ from their defaults.
        channel_order: of the network's input.
    """

    description: str
    crop_fraction: float
    fields: Mapping[str, Any]
    channel_order: str = "RGB"


#: The presets by name.
PRESETS: Mapping[str, Preset] = {
    "torchvision": Preset(
        "torchvision's first weights: shortest side 256, bilinear, center 224, mean and deviation of ImageNet",
        0.875,
        {"filter": "bilinear", **_IMAGENET},
    ),
    "torchvision-v2": Preset(
        "torchvision's second weights (IMAGENET1K_V2): as torchvision, but shortest side 232",
        224 / 232,
        {"filter": "bilinear", **_IMAGENET},
    ),
    "timm": Preset(
        "most weights of timm: as torchvision, but bicubic; some need another --crop-fraction",
        0.875,
        {"filter": "bicubic", **_IMAGENET},
    ),
    "clip": Preset(
        "CLIP and OpenCLIP: shortest side 224, bicubic, center 224, mean and deviation of CLIP",
        1.0,
        {
            "filter": "bicubic",
            "mean": (0.48145466, 0.4578275, 0.40821073),
            "std": (0.26862954, 0.26130258, 0.27577711),
        },
    ),
    "inception": Preset(
        "Inception, and TensorFlow's networks in timm: as timm, but values from -1 to 1",
        0.875,
        {"filter": "bicubic", **_HALF},
    ),
    "siglip": Preset(
        "SigLIP: both sides resized to the input's, bicubic, values from -1 to 1",
        1.0,
        {"resize": "squash", "filter": "bicubic", "crop": "none", **_HALF},
    ),
    "efficientnet-lite": Preset(
        "TensorFlow's EfficientNet-lite: as timm, but (value - 127) / 128",
        0.875,
        {"filter": "bicubic", "scale": 1.0, "mean": (127.0, 127.0, 127.0), "std": (128.0, 128.0, 128.0)},
    ),
    "unit": Preset(
        "values from 0 to 1: shortest side resized to the input's, bilinear, center crop", 1.0, {"filter": "bilinear"}
    ),
}


@dataclass(frozen=True, slots=True)
class PreprocessingFlags:
    """The flags about preprocessing; None or nothing where a flag is not given.

    Attributes:
        preset: the name of a preset.
        crop_fraction: the side of the crop in relation to the resized side.
        channel_order: of the network's input.
        fields: fields of `Preprocessing`.
    """

    preset: str | None = None
    crop_fraction: float | None = None
    channel_order: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def preprocessing_of(
    flags: PreprocessingFlags, shape: tuple[int, int, int], known: Preset | None = None
) -> tuple[Input, Preprocessing]:
    """Return the input and the preprocessing of a backbone, from flags.

    Args:
        flags: the flags.
        shape: the shape (C, H, W) of the network's input.
        known: the preprocessing of the model if its origin says it, which flags change.

    Raises:
        ImportFailed: the preprocessing is not known, or flags are wrong.
    """
    name = flags.preset
    if known is None and flags == PreprocessingFlags():
        raise ImportFailed(
            "a model file does not say how its images were prepared, and wrong preprocessing gives wrong features: "
            f"name it with --preprocessing, one of {', '.join(PRESETS)}, or with --size, --filter, --mean and --std"
        )
    if name is not None and name not in PRESETS:
        raise ImportFailed(
            f"--preprocessing must be one of {', '.join(PRESETS)}; got {name}{did_you_mean(name, PRESETS)}"
        )
    if flags.crop_fraction is not None and not flags.crop_fraction >= LEAST_FRACTION:
        raise ImportFailed(f"--crop-fraction must be {LEAST_FRACTION} or more; got {flags.crop_fraction}")
    preset = PRESETS[name] if name is not None else known or PRESETS["unit"]
    channels, height, width = shape
    fields = {**preset.fields, **flags.fields}
    if channels == 1:
        fields = {key: _gray(value) if key in ("mean", "std") else value for key, value in fields.items()}
    fields["size"] = _size(flags, preset, fields.get("resize", "shortest"), height, width)
    fields = {key: value for key, value in fields.items() if value is not None}
    order = flags.channel_order or preset.channel_order
    try:
        return (
            Input.model_validate(
                {
                    "height": height,
                    "width": width,
                    "color_mode": "RGB" if channels == 3 else "GRAY",
                    "channel_order": order,
                }
            ),
            Preprocessing.model_validate(fields),
        )
    except ValidationError as error:
        table = Input if error.title == Input.__name__ else Preprocessing
        raise ImportFailed(f"preprocessing: {explain(error, table)}") from None


def _size(
    flags: PreprocessingFlags, preset: Preset, resize: str, height: int, width: int
) -> int | tuple[int, int] | None:
    """Return the size to which images are resized; None if they are not, or to that of the input (height, width)."""
    fraction = flags.crop_fraction
    if fraction is not None and resize == "none":
        raise ImportFailed("--crop-fraction needs images that are resized, and the resize is none")
    if fraction is not None and "size" in flags.fields:
        raise ImportFailed("--crop-fraction and --size both state the size of resized images; leave one of them out")
    # The size of the preset belongs to the resize of the preset.
    known = None if resize == "none" or "resize" in flags.fields else preset.fields.get("size")
    size: int | tuple[int, int] | None = flags.fields.get("size", known)
    # torchvision and timm floor the sides, too.
    if fraction is not None and (resize == "squash" or isinstance(size, tuple)):
        return int(height / fraction), int(width / fraction)
    if fraction is not None or (size is None and resize in ("shortest", "longest")):
        return int(min(height, width) / (fraction or preset.crop_fraction))
    return size


def _gray(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return the mean or deviation of a gray image: those of one channel, or of three equal channels."""
    return values if len(values) == 1 else (sum(values) / len(values),)
