"""The keyword arguments of `pool`, `pool_image` and `map` that describe a request, with their types."""

from typing import Literal, TypeAlias, TypedDict

from poolservice_client._request.layout import Layout

ColorMode: TypeAlias = Literal["RGB", "GRAY", "RGBA"]
Output: TypeAlias = Literal["tensor", "features"]


class ImageOptions(TypedDict, total=False):
    """The keyword arguments of `pool_image`."""

    color_mode: ColorMode | None
    layout: Layout | None
    timeout: float | None


class PoolOptions(ImageOptions, total=False):
    """The keyword arguments of `pool`, except `execution` and `returns`."""

    output: Output
    normalize: bool
    dtype: Literal["float16"] | None
    backbone: str | None
    tap: str | None


class BackboneOptions(TypedDict, total=False):
    """The keyword arguments of `pool` without specs, except `backbone`, `execution` and `returns`."""

    tap: str | None
    output: Output
    normalize: bool
    dtype: Literal["float16"] | None
    layout: Layout | None
    timeout: float | None
