"""Reads a `preprocessor_config.json`, the file in which Hugging Face's image processors store what they do.

The rules are those of the processors that use Pillow. Each field is used, or checked to have no effect, or refused.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.presets import LEAST_FRACTION, Preset
from poolservice_server.backbones.manifest_values import LARGEST_SIDE
from poolservice_server.foreign_text import quote

_LARGEST_CHANNEL_VALUE = 1e6
# Pillow's numbers of its filters.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


class _Processor(NamedTuple):
    """The defaults of an image processor, for fields that old files leave out.

    Attributes:
        square: whether a single number as the size is that of both sides instead of the shortest.
        crops: whether it crops the center.
        swaps_channels: whether it changes RGB to BGR.
        normalizes: whether it subtracts a mean and divides by a deviation.
    """

    square: bool
    crops: bool
    swaps_channels: bool = False
    normalizes: bool = True


_PROCESSORS = {
    "Beit": _Processor(square=True, crops=True),
    "Bit": _Processor(square=False, crops=True),
    "ChineseCLIP": _Processor(square=False, crops=True),
    "CLIP": _Processor(square=False, crops=True),
    "ConvNext": _Processor(square=False, crops=False),
    "DeiT": _Processor(square=True, crops=True),
    "MobileNetV1": _Processor(square=False, crops=True),
    "MobileNetV2": _Processor(square=False, crops=True),
    "MobileViT": _Processor(square=False, crops=True, swaps_channels=True, normalizes=False),
    "Siglip": _Processor(square=True, crops=False),
    "ViT": _Processor(square=True, crops=False),
}
_SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")

# Names and technical fields, whatever their values.
_WITHOUT_EFFECT = frozenset(
    {
        "image_processor_type",
        "feature_extractor_type",
        "processor_class",
        "_valid_processor_keys",
        "data_format",
        # The server converts all images to the color mode of the network.
        "do_convert_rgb",
        "default_to_square",
    }
)
_USED = frozenset(
    {
        "do_resize",
        "size",
        "resample",
        "do_center_crop",
        "crop_size",
        "crop_pct",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
        "do_flip_channel_order",
    }
)


class ProcessorRules(NamedTuple):
    """What an image processor does.

    Attributes:
        image_size: the height and width of the network's input.
        preset: the preprocessing.
    """

    image_size: tuple[int, int]
    preset: Preset


def read_processor(config: Mapping[str, Any]) -> ProcessorRules:
    """Return what an image processor does.

    Raises:
        ImportFailed: its type or a field is unknown or not supported; the message names it.
    """
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    name = next((kind.removesuffix(suffix) for suffix in _SUFFIXES if kind.endswith(suffix)), kind)
    if name not in _PROCESSORS:
        raise ImportFailed(
            f'image_processor_type = "{quote(kind)}" is not supported; supported are {", ".join(_PROCESSORS)}'
        )
    defaults = _PROCESSORS[name]
    for field, value in config.items():
        # A field that is off or empty does nothing.
        if field not in _USED | _WITHOUT_EFFECT and value not in (None, False):
            raise ImportFailed(
                f"the field {quote(field)} = {quote(repr(value))} is not supported; remove it if the samples do not "
                "depend on it"
            )
    fields: dict[str, Any] = {"crop_rounding": "floor", "rounding": "floor"}
    image_size = _resize_and_crop(config, name, defaults, fields)
    normalizes = config.get("do_normalize", defaults.normalizes)
    fields |= _values(config, normalizes=normalizes)
    swaps = config.get("do_flip_channel_order", defaults.swaps_channels)
    if swaps and normalizes:
        raise ImportFailed("the fields do_flip_channel_order and do_normalize are not supported together")
    return ProcessorRules(image_size, Preset("the image processor's", 1.0, fields, "BGR" if swaps else "RGB"))


def _resize_and_crop(
    config: Mapping[str, Any], name: str, defaults: _Processor, fields: dict[str, Any]
) -> tuple[int, int]:
    """Set the fields about resizing and cropping; return the height and width of the result."""
    crops = config.get("do_center_crop", defaults.crops)
    crop = _sides_of_crop(config) if crops else None
    if not config.get("do_resize", True):
        if crop is None:
            raise ImportFailed("do_resize and do_center_crop are false, so images have no fixed size")
        fields["resize"] = "none"
        return crop
    # The default differs between releases of the library.
    if "resample" not in config:
        raise ImportFailed("the field resample is missing")
    resample = config["resample"]
    if not isinstance(resample, int) or resample not in _FILTERS:
        raise ImportFailed(f"resample = {quote(repr(resample))} is not supported")
    fields["filter"] = _FILTERS[resample]
    square = bool(config.get("default_to_square", defaults.square))
    sides = _sides("size", config.get("size"), square=square)
    if name == "ConvNext":
        return _resize_convnext(config, sides, fields)
    if isinstance(sides, int):
        fields |= {"resize": "shortest", "size": sides}
        if crop is None:
            raise ImportFailed(
                "size.shortest_edge without do_center_crop is not supported: only square images would get the size "
                "of the network's input"
            )
        return crop
    fields |= {"resize": "squash", "size": sides}
    if crop is None:
        fields["crop"] = "none"
        return sides
    return crop


def _resize_convnext(
    config: Mapping[str, Any], sides: int | tuple[int, int], fields: dict[str, Any]
) -> tuple[int, int]:
    """Set the fields of ConvNeXt's rule: small inputs are cropped from a larger image, large ones are not cropped."""
    if not isinstance(sides, int):
        raise ImportFailed("size of a ConvNext processor must have shortest_edge only")
    if sides >= 384:
        fields |= {"resize": "squash", "size": (sides, sides), "crop": "none"}
    else:
        fraction = config.get("crop_pct") or 224 / 256
        if not isinstance(fraction, int | float) or not fraction >= LEAST_FRACTION:
            raise ImportFailed(f"crop_pct must be {LEAST_FRACTION} or more; got {quote(repr(fraction))}")
        fields |= {"resize": "shortest", "size": int(sides / fraction)}
    return sides, sides


def _sides_of_crop(config: Mapping[str, Any]) -> tuple[int, int]:
    sides = _sides("crop_size", config.get("crop_size"), square=True)
    if isinstance(sides, int):
        raise ImportFailed("crop_size must have height and width")
    return sides


def _sides(field: str, value: Any, *, square: bool) -> int | tuple[int, int]:
    """Return (height, width), or the number of pixels of the shortest edge."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= LARGEST_SIDE:
            raise ImportFailed(f"{field} must be from 1 to {LARGEST_SIDE}; got {quote(repr(value))}")
        return (value, value) if square else value
    if isinstance(value, Mapping):
        keys = {key for key, side in value.items() if side is not None}
        if not all(isinstance(value[key], int) and 1 <= value[key] <= LARGEST_SIDE for key in keys):
            raise ImportFailed(
                f"{field} must have whole numbers from 1 to {LARGEST_SIDE}; got {quote(repr(dict(value)))}"
            )
        if keys == {"height", "width"}:
            return int(value["height"]), int(value["width"])
        if keys == {"shortest_edge"}:
            return int(value["shortest_edge"])
    if value is None:
        raise ImportFailed(f"the field {field} is missing")
    raise ImportFailed(
        f"{field} = {quote(repr(value))} is not supported; it may have height and width, or shortest_edge"
    )


def _values(config: Mapping[str, Any], *, normalizes: bool) -> dict[str, Any]:
    """Return scale, mean and deviation."""
    fields: dict[str, Any] = {"scale": config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0}
    if normalizes:
        for field, key in (("image_mean", "mean"), ("image_std", "std")):
            values = config.get(field)
            if not isinstance(values, list) or not all(map(_is_channel_value, values)):
                raise ImportFailed(f"the field {field} must be a list of numbers; got {quote(repr(values))}")
            fields[key] = tuple(map(float, values))
    return fields


def _is_channel_value(value: object) -> bool:
    # JSON has numbers that no float can hold.
    return isinstance(value, int | float) and abs(value) < _LARGEST_CHANNEL_VALUE
