"""Queries: the validated specs and options of a call, without its input."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec, to_message
from poolservice.v1 import pool_pb2
from poolservice_client._request.backbone_arguments import Classification, check_backbone, check_samples
from poolservice_client._request.backbone_time import BackboneTime
from poolservice_client._request.layout import channels_first, check_layout, warn_if_channels_last
from poolservice_client._request.payload import ImagePayload, Payload, TensorPayload, make_payload
from poolservice_client._request.template import RequestTemplate
from poolservice_client._request.wrong_spec import describe_wrong_spec
from poolservice_client._suggestions import suggestion

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
# A query with larger tensors among its parameters is made anew for each call, because the cached ones would take the
# program's memory.
_MAX_CACHED_PARAMETER_BYTES = 16 * 1024
_MAX_TEMPLATES = 512


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
        backbone: the backbone that computes the feature map to pool; None if the input itself is pooled.
        tap: the output of the backbone; None for its default one.
        classification: the classes that are asked for, instead of a pooled output; None for none.
        backbone_time: how long the backbone ran the last time.
    """

    specs: tuple[PoolSpec, ...]
    single: bool
    output: str
    normalize: bool
    narrow: bool
    color_mode: str | None
    layout: str | None
    backbone: str | None = None
    tap: str | None = None
    classification: Classification | None = None
    backbone_time: BackboneTime = field(default_factory=BackboneTime, init=False, repr=False, compare=False)
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
        backbone: object = None,
        tap: object = None,
        classification: Classification | None = None,
    ) -> "PoolQuery":
        """Validate the arguments of a call. Equal arguments give the same object, which keeps its templates.

        Raises:
            InvalidRequest: an argument is invalid.
        """
        hashable_specs = tuple(specs) if isinstance(specs, list) else specs
        if _parameter_bytes(hashable_specs) > _MAX_CACHED_PARAMETER_BYTES:
            return _make_query(
                hashable_specs, output, normalize, dtype, color_mode, layout, backbone, tap, classification
            )
        try:
            return _cached_query(
                hashable_specs, output, normalize, dtype, color_mode, layout, backbone, tap, classification
            )
        except TypeError:
            # An argument that cannot be hashed is invalid, and validating it gives the error.
            return _make_query(
                hashable_specs, output, normalize, dtype, color_mode, layout, backbone, tap, classification
            )

    @property
    def may_share_messages(self) -> bool:
        """Whether its requests may share a message with others: any without a backbone, and those with a fast one."""
        return self.backbone is None or self.backbone_time.is_short

    @property
    def results(self) -> int:
        """The number of results in a response."""
        if self.specs or self.classification is not None:
            return len(self.specs)
        return 1

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
            InvalidRequest: the query has a color mode, and the payload is a tensor; or it has a backbone, and the
                tensor is no preprocessed image.
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
            if self.backbone is not None:
                if dtype is not None and shape is not None:
                    check_samples(dtype, shape, one=self.classification is not None)
            elif self.layout is None and shape is not None and all(spec.spatial_dims == 2 for spec in self.specs):
                warn_if_channels_last(shape)
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            # Another thread may have added it meanwhile.
            template = self._templates.setdefault(key, self._make_template(dtype, shape))
        return template

    def _make_template(self, dtype: "np.dtype[Any] | None", shape: tuple[int, ...] | None) -> RequestTemplate:
        head = pool_pb2.PoolRequest(
            specs=[to_message(spec) for spec in self.specs], backbone=self.backbone or "", tap=self.tap or ""
        )
        if self.classification is not None:
            head.classification.top = self.classification.top
            head.classification.classes.extend(self.classification.classes)
            head.classification.activation_maps = self.classification.maps
        if self.output != "tensor":
            head.output.format = _OUTPUT_FORMATS[self.output]
            head.output.l2_normalize = self.normalize
        if self.narrow:
            head.output.dtype = pool_pb2.DATA_TYPE_FLOAT16
        if shape is None:
            head.image.color_mode = _COLOR_MODES[self.color_mode]
            head.image.SetInParent()
        dims = {spec.spatial_dims for spec in self.specs}
        # A stack is one request, which the server runs on one thread. With a backbone, each sample takes milliseconds.
        stackable = (
            len(dims) == 1
            and self.output != "image"
            and self.backbone is None
            # A parameter with a row for each sample would not fit the stack.
            and not any(spec.parameter_bytes for spec in self.specs)
        )
        stackable_dims = dims.pop() if stackable else None
        return RequestTemplate(head, dtype, shape, stackable_dims, _parameter_bytes(self.specs))


def explain_query(backbone: object, top: object, classes: Sequence[int], maps: object, layout: object) -> PoolQuery:
    """Validate the arguments of `explain`. Equal arguments give the same object.

    Raises:
        InvalidRequest: an argument is invalid.
    """
    if backbone is None:
        raise InvalidRequest('must be the name of a backbone, such as "mobilenetv2"; got None', field="backbone")
    classification = Classification.of(top, classes, maps)
    return PoolQuery.of([], output="tensor", layout=layout, backbone=backbone, classification=classification)


def _make_query(
    specs: object,
    output: object,
    normalize: object,
    dtype: object,
    color_mode: object,
    layout: object,
    backbone: object,
    tap: object,
    classification: Classification | None,
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
        raise InvalidRequest('only feature vectors are normalized: set output="features" too', field="normalize")
    if not isinstance(color_mode, str | None) or color_mode not in _COLOR_MODES:
        raise InvalidRequest(
            f'must be "RGB", "GRAY" or "RGBA"; got {color_mode!r}{suggestion(color_mode, ("RGB", "GRAY", "RGBA"))}',
            field="color_mode",
        )
    check_backbone(backbone, tap, color_mode)
    if isinstance(specs, PoolSpec):
        checked_specs: tuple[PoolSpec, ...] = (specs,)
    else:
        checked_specs = () if specs is None and backbone is not None else _check_specs(specs, backbone)
    checked_layout = check_layout(layout, checked_specs)
    if output == "image":
        for number, spec in enumerate(checked_specs):
            if getattr(spec, "return_indices", False):
                raise InvalidRequest("images have no indices; leave it out", field=f"specs[{number}].return_indices")
    return PoolQuery(
        checked_specs,
        isinstance(specs, PoolSpec) or specs is None,
        output,
        normalize,
        dtype is not None and _is_float16(dtype),
        color_mode,
        checked_layout,
        cast(str | None, backbone),
        cast(str | None, tap),
        classification,
    )


# `typed`, because 1 and True are equal but only True is a valid `normalize`.
_cached_query = lru_cache(maxsize=_MAX_CACHED_QUERIES, typed=True)(_make_query)


def _parameter_bytes(specs: object) -> int:
    """Return the size of the tensors among the parameters of a spec, or of several."""
    if isinstance(specs, PoolSpec):
        return specs.parameter_bytes
    if isinstance(specs, tuple):
        return sum([spec.parameter_bytes for spec in specs if isinstance(spec, PoolSpec)])
    return 0


def _check_specs(specs: object, backbone: object) -> tuple[PoolSpec, ...]:
    if isinstance(specs, Sequence) and not isinstance(specs, str):
        checked = tuple(specs)
        for number, spec in enumerate(checked):
            if not isinstance(spec, PoolSpec):
                raise InvalidRequest(
                    f"must be a spec such as MaxPool2d(2); got {describe_wrong_spec(spec)}", field=f"specs[{number}]"
                )
        if checked or backbone is not None:
            return checked
        raise InvalidRequest("at least one is needed, such as MaxPool2d(2)", field="specs")
    raise InvalidRequest(
        f"must be a spec such as MaxPool2d(2), or a list of them; got {describe_wrong_spec(specs)}", field="specs"
    )


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
