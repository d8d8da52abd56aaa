"""The checks of a request against the backbones of the server; each error says what would be right."""

from collections.abc import Iterable

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice_server.backbone_stage import ClassChoice
from poolservice_server.backbones.backbone import Backbone, Backbones
from poolservice_server.core.backbone_head import BackboneHead
from poolservice_server.foreign_text import quote
from poolservice_server.settings.errors import did_you_mean

_FLOAT32 = np.dtype(np.float32)

# Names are no longer. The rest of a longer one is not compared with them, which would take milliseconds.
_MAX_NAME = 64

# An error lists up to this many names.
_MAX_LISTED = 50


def find_backbone(name: str, backbones: Backbones) -> Backbone:
    """Return the backbone of this name.

    Raises:
        InvalidRequest: there is none, or it does not serve.
    """
    backbone = backbones.serving.get(name)
    if backbone is not None:
        return backbone
    broken = next((one for one in backbones.broken if one.name == name), None)
    if broken is not None:
        raise InvalidRequest(f"backbone {name} does not serve: {broken.reason}", field="backbone")
    serving = backbones.serving
    has = f"has {_listed(serving)}" if serving else "has no backbones; start it with --backbone"
    raise InvalidRequest(
        f"there is no backbone {quote(name)}; this server {has}{did_you_mean(name[:_MAX_NAME], serving)}",
        field="backbone",
    )


def find_output(tap: str, backbone: Backbone) -> str:
    """Return the name of the output that a request pools.

    Raises:
        InvalidRequest: the backbone has no output `tap`.
    """
    name = tap or backbone.default_output
    if name not in backbone.outputs:
        raise InvalidRequest(
            f"backbone {backbone.name} has no output {quote(name)}; it has {_listed(backbone.outputs)}"
            f"{did_you_mean(name[:_MAX_NAME], backbone.outputs)}",
            field="tap",
        )
    return name


def count_samples(wanted: BackboneHead, backbone: Backbone) -> int:
    """Return the number of samples of a payload: 1 of an image.

    Raises:
        InvalidRequest: the backbone does not take such a tensor.
    """
    shape, sample = wanted.shape, backbone.input_shape
    if shape is None:
        return 1
    sizes = ", ".join(map(str, sample))
    takes = f"backbone {backbone.name} takes float32 of shape ({sizes}) or (N, {sizes}), which is preprocessed"
    if wanted.dtype != _FLOAT32:
        raise InvalidRequest(
            f"{takes}; got {wanted.dtype}; send the image file, which the server preprocesses, or preprocess the "
            "pixels as BackboneInfo.preprocessing says",
            field="tensor.dtype",
        )
    if shape[-3:] != sample or len(shape) not in (3, 4):
        channels, height, width = sample
        if len(shape) > 4:
            hint = f"it has {len(shape)} dimensions"
        elif shape[-3:] == (height, width, channels):
            hint = "move the channels in front of the height"
        elif shape[-3:-2] != (channels,):
            hint = f"its first dimension must be the {channels} channels"
        else:
            hint = "send the image file, which the server resizes"
        raise InvalidRequest(f"{takes}; got {list(shape)}; {hint}", field="tensor.shape")
    samples = 1 if len(shape) == 3 else shape[0]
    if not samples:
        raise InvalidRequest("must have at least one sample", field="tensor.shape")
    return samples


def checked_classes(classes: ClassChoice | None, backbone: Backbone, samples: int) -> ClassChoice | None:
    """Return the classes that are wanted, no more than there are.

    Raises:
        InvalidRequest: the backbone has no classes, or not one of these, or there are several samples.
    """
    if classes is None:
        return None
    if not backbone.head_output:
        raise InvalidRequest(f"backbone {backbone.name} has no classification head", field="classification")
    if samples > 1:
        raise InvalidRequest(
            f"goes with one sample; got {samples}; send each of them in a request of its own", field="classification"
        )
    count = len(backbone.labels)
    for position, index in enumerate(classes.classes):
        if index >= count:
            raise InvalidRequest(
                f"must be less than {count}, the number of classes of backbone {backbone.name}; got {index}",
                field=f"classification.classes[{position}]",
            )
    return classes._replace(top=min(classes.top, count))


def check_specs(specs: tuple[PoolSpec, ...], name: str, backbone: Backbone) -> None:
    """Check that specs suit the output of this name.

    Raises:
        InvalidRequest: the output is a vector, or a spec does not pool 2 dimensions.
    """
    if not specs:
        return
    kind, shape = backbone.outputs[name]
    if kind == "vector":
        maps = [other for other, output in backbone.outputs.items() if output.kind == "map"]
        instead = f"; its feature maps are {_listed(maps)}" if maps else ""
        raise InvalidRequest(
            f"must be empty, because {described(backbone.name, name)} is a vector{instead}", field="specs"
        )
    for index, spec in enumerate(specs):
        if spec.spatial_dims != 2:
            raise InvalidRequest(
                f"must pool 2 dimensions, because {described(backbone.name, name)} is a feature map (C, H, W) of shape "
                f"{list(shape)}; {type(spec).__name__} pools {spec.spatial_dims}",
                field=f"specs[{index}].spatial_dims",
            )


def described(backbone: str, output: str) -> str:
    """Return an output and its backbone, for errors."""
    return f"output {output} of backbone {backbone}"


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    further = f" and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
    return ", ".join(listed[:_MAX_LISTED]) + further
