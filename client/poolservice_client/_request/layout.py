"""The layout of tensors that are images: channels first, as torch has them, or channels last, as image libraries do."""

import inspect
import warnings
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice_client._request.payload import TensorPayload
from poolservice_client._suggestions import suggestion

Layout: TypeAlias = Literal["CHW", "HWC"]

_LAYOUTS = ("CHW", "HWC")

# The channels of an image: gray, RGB and RGBA have 1, 3 and 4. Larger dimensions are heights and widths.
_IMAGE_CHANNELS = (1, 3, 4)


def check_layout(layout: object, specs: Sequence[PoolSpec]) -> str | None:
    """Return the layout of the tensors for `specs` after checking it.

    Raises:
        InvalidRequest: it is not a layout, or not one for these specs.
    """
    if layout is None:
        return None
    if not isinstance(layout, str) or layout not in _LAYOUTS:
        raise InvalidRequest(f'must be "CHW" or "HWC"; got {layout!r}{suggestion(layout, _LAYOUTS)}', field="layout")
    for spec in specs:
        if layout == "HWC" and spec.spatial_dims != 2:
            raise InvalidRequest(
                f'"HWC" is for 2-D specs; move the channels of a tensor for {type(spec).__name__} to the front',
                field="layout",
            )
    return layout


def channels_first(payload: TensorPayload) -> TensorPayload:
    """Return a (H, W, C) or (N, H, W, C) tensor as (C, H, W) or (N, C, H, W).

    Raises:
        InvalidRequest: it has another number of dimensions.
    """
    array = payload.array
    if array.ndim not in (3, 4):
        raise InvalidRequest(
            f'with layout="HWC", a tensor is (H, W, C) or (N, H, W, C); got shape {array.shape}', field="x.shape"
        )
    return TensorPayload(np.ascontiguousarray(np.moveaxis(array, -1, -3)))


def warn_if_channels_last(shape: tuple[int, ...]) -> None:
    """Warn if a tensor for 2-D specs looks like an image with its channels last.

    A feature map such as (256, 4, 4) does not: the width of an image is larger than its number of channels.
    """
    if len(shape) not in (3, 4) or shape[-1] not in _IMAGE_CHANNELS or min(shape[-3:-1]) <= max(_IMAGE_CHANNELS):
        return
    channels, height, width = shape[-3:]
    warnings.warn(
        f"a tensor of shape {shape} is pooled as {channels} channels of {height} x {width}; if its channels are last, "
        'pass layout="HWC"; if they are first, layout="CHW" avoids this warning',
        stacklevel=_caller_level(),
    )


def _caller_level() -> int:
    """Return the `stacklevel` of the first caller outside this package."""
    package = __name__.partition(".")[0]
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    return level
