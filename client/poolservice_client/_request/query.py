"""Queries: the validated specs and options of a call, without its input."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec, to_message
from poolservice.v1 import pool_pb2
from poolservice_client._request.layout import LAYOUTS, Layout, channels_first, warn_if_channels_last
from poolservice_client._request.payload import ImagePayload, Payload, TensorPayload, make_payload
from poolservice_client._request.template import RequestTemplate
from poolservice_client._request.wrong_spec import describe_wrong_spec
from poolservice_client._suggestions import suggestion

ColorMode: TypeAlias = Literal["RGB", "GRAY", "RGBA"]
Output: TypeAlias = Literal["tensor", "features"]

_OUTPUT_FORMATS: dict[object, pool_pb2.OutputFormat.ValueType] = {
    "tensor": pool_pb2.OUTPUT_FORMAT_TENSOR,
    "features": pool_pb2.OUTPUT_FORMAT_FEATURE_VECTOR,
    "image": pool_pb2.OUTPUT_FORMAT_IMAGE,
}
_COLOR_MODES: dict[object, pool_pb2.ColorMode.ValueType] = {
    None: pool_pb2.COLOR_MODE_UNSPECIFIED,
    "RGB": pool_pb2.COLOR_MODE_RGB,
    "GRAY": pool_pb2.COLOR_MODE_GRAY,
    "RGBA": pool_pb2.COLOR_MODE_RGBA,
}

# A program usually makes few different queries, each for tensors of few shapes.
_MAX_CACHED_QUERIES = 256
_MAX_TEMPLATES = 512


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


@dataclass(frozen=True, slots=True)
class PoolQuery:
    """The validated specs and options of a call.

    Attributes:
        specs: the specs, in the caller's order.
        single: whether the caller passed one spec rather than a list, and gets one result rather than a list.
        output: "tensor", "features" or "image".
        normalize: whether feature vectors are divided by their Euclidean norm.
        narrow: whether floating-point results are converted to float16.
        color_mode: the mode in which an image is decoded; None for the server's default.
        layout: the layout of tensors, "CHW" or "HWC"; None for "CHW" with a warning for tensors that look like "HWC".
    """

    specs: tuple[PoolSpec, ...]
    single: bool
    output: str
    normalize: bool
    narrow: bool
    color_mode: str | None
    layout: str | None
    _templates: dict[object, RequestTemplate] = field(default_factory=dict, init=False, repr=False, compare=False)

    @staticmethod
    def of(
        specs: object,
        *,
        output: object,
        normalize: object = False,
        dtype: object = None,
        color_mode: object = None,
        layout: object = None,
    ) -> "PoolQuery":
        """Validate the arguments of a call. Equal arguments give the same object, which keeps its templates.

        Raises:
            InvalidRequest: an argument is invalid.
        """
        hashable_specs = tuple(specs) if isinstance(specs, list) else specs
        try:
            return _cached_query(hashable_specs, output, normalize, dtype, color_mode, layout)
        except TypeError:
            # An argument that cannot be hashed is invalid, and validating it gives the error.
            return _make_query(hashable_specs, output, normalize, dtype, color_mode, layout)

    def payload_of(self, x: Any) -> Payload:
        """Return the payload that is sent for `x`, a tensor with its channels first.

        Raises:
            InvalidRequest: `x` is not something that can be pooled, or does not have this layout.
            OSError: `x` is a path that cannot be read.
        """
        payload = make_payload(x)
        return channels_first(payload) if self.layout == "HWC" and isinstance(payload, TensorPayload) else payload

    def template_for(self, payload: Payload) -> RequestTemplate:
        """Return the template of this query's requests with such a payload; the same object each time.

        Raises:
            InvalidRequest: the query has a color mode, and the payload is a tensor.
        """
        if isinstance(payload, ImagePayload):
            key, dtype, shape = None, None, None
        else:
            dtype, shape = payload.array.dtype, payload.array.shape
            key = dtype, shape
        template = self._templates.get(key)
        if template is None:
            if self.color_mode is not None and shape is not None:
                raise InvalidRequest(
                    "is for images; a tensor is pooled in the channels that it has", field="color_mode"
                )
            if self.layout is None and shape is not None and all(spec.spatial_dims == 2 for spec in self.specs):
                warn_if_channels_last(shape)
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            # Another thread may have added it meanwhile.
            template = self._templates.setdefault(key, self._make_template(dtype, shape))
        return template

    def _make_template(self, dtype: "np.dtype[Any] | None", shape: tuple[int, ...] | None) -> RequestTemplate:
        head = pool_pb2.PoolRequest(specs=[to_message(spec) for spec in self.specs])
        if self.output != "tensor":
            head.output.format = _OUTPUT_FORMATS[self.output]
            head.output.l2_normalize = self.normalize
        if self.narrow:
            head.output.dtype = pool_pb2.DATA_TYPE_FLOAT16
        if shape is None:
            head.image.color_mode = _COLOR_MODES[self.color_mode]
            head.image.SetInParent()
        dims = {spec.spatial_dims for spec in self.specs}
        stackable_dims = dims.pop() if len(dims) == 1 and self.output != "image" else None
        return RequestTemplate(head, dtype, shape, stackable_dims)


def _make_query(
    specs: object, output: object, normalize: object, dtype: object, color_mode: object, layout: object
) -> PoolQuery:
    if not isinstance(output, str) or output not in _OUTPUT_FORMATS:
        raise InvalidRequest(
            f'must be "tensor" or "features" (pool_image returns images); got {output!r}'
            f"{suggestion(output, ('tensor', 'features'))}",
            field="output",
        )
    if not isinstance(normalize, bool):
        raise InvalidRequest(f"must be True or False; got {normalize!r}", field="normalize")
    if normalize and output != "features":
        raise InvalidRequest('only feature vectors are normalised: set output="features" too', field="normalize")
    if not isinstance(color_mode, str | None) or color_mode not in _COLOR_MODES:
        raise InvalidRequest(
            f'must be "RGB", "GRAY" or "RGBA"; got {color_mode!r}{suggestion(color_mode, ("RGB", "GRAY", "RGBA"))}',
            field="color_mode",
        )
    checked_specs = (specs,) if isinstance(specs, PoolSpec) else _check_specs(specs)
    checked_layout = _check_layout(layout, checked_specs)
    if output == "image":
        for number, spec in enumerate(checked_specs):
            if getattr(spec, "return_indices", False):
                raise InvalidRequest("images have no indices; leave it out", field=f"specs[{number}].return_indices")
    return PoolQuery(
        checked_specs,
        isinstance(specs, PoolSpec),
        output,
        normalize,
        dtype is not None and _is_float16(dtype),
        color_mode,
        checked_layout,
    )


# `typed`, because 1 and True are equal but only True is a valid `normalize`.
_cached_query = lru_cache(maxsize=_MAX_CACHED_QUERIES, typed=True)(_make_query)


def _check_specs(specs: object) -> tuple[PoolSpec, ...]:
    if isinstance(specs, Sequence) and not isinstance(specs, str):
        checked = tuple(specs)
        for number, spec in enumerate(checked):
            if not isinstance(spec, PoolSpec):
                raise InvalidRequest(
                    f"must be a spec such as MaxPool2d(2); got {describe_wrong_spec(spec)}", field=f"specs[{number}]"
                )
        if checked:
            return checked
        raise InvalidRequest("at least one is needed, such as MaxPool2d(2)", field="specs")
    raise InvalidRequest(
        f"must be a spec such as MaxPool2d(2), or a list of them; got {describe_wrong_spec(specs)}", field="specs"
    )


def _check_layout(layout: object, specs: Sequence[PoolSpec]) -> str | None:
    if layout is None:
        return None
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise InvalidRequest(f'must be "CHW" or "HWC"; got {layout!r}{suggestion(layout, LAYOUTS)}', field="layout")
    for spec in specs:
        if layout == "HWC" and spec.spatial_dims != 2:
            raise InvalidRequest(
                f'"HWC" is for 2-D specs; move the channels of a tensor for {type(spec).__name__} to the front',
                field="layout",
            )
    return layout


def _is_float16(dtype: object) -> bool:
    try:
        if np.dtype(dtype) == np.float16:  # type: ignore[call-overload]
            return True
    except TypeError:
        pass
    raise InvalidRequest(
        f'must be "float16", or None for the default result type; got {dtype!r}{suggestion(dtype, ("float16",))}',
        field="dtype",
    )
