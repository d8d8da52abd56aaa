"""From what a caller asks to a message: specs, output, colour mode, payload."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias, TypedDict

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice_client._request.payload import ImagePayload, Payload
from poolservice_client._request.suggestions import instead_of
from poolservice_client._request.template import COLOR_MODES, OUTPUTS, RequestTemplate

ColorMode: TypeAlias = Literal["RGB", "GRAY", "RGBA"]
Output: TypeAlias = Literal["tensor", "features"]

# A pipeline asks few things, each of tensors of few shapes.
_QUERIES_KEPT = 256
_KINDS_KEPT = 512


class ImageOptions(TypedDict, total=False):
    """The keywords of pool_image."""

    color_mode: ColorMode | None
    timeout: float | None


class PoolOptions(ImageOptions, total=False):
    """The keywords of pool, beside `execution`."""

    output: Output
    normalize: bool
    dtype: Literal["float16"] | None


@dataclass(frozen=True, slots=True)
class PoolQuery:
    """What is asked about a payload, checked.

    Attributes:
        specs: how to pool it, in order.
        single: whether one spec was given on its own, so that its result comes back on its own.
        output: "tensor", "features" or "image".
        normalize: whether feature vectors are divided by their length.
        narrow: whether floating results come as float16.
        color_mode: the mode to read a picture in; None for the server's default.
    """

    specs: tuple[PoolSpec, ...]
    single: bool
    output: str
    normalize: bool
    narrow: bool
    color_mode: str | None
    _kinds: dict[object, RequestTemplate] = field(default_factory=dict, init=False, repr=False, compare=False)

    @staticmethod
    def of(
        specs: object,
        *,
        output: object,
        normalize: object = False,
        dtype: object = None,
        color_mode: object = None,
    ) -> "PoolQuery":
        """The query for what a caller gave; the same object for what was asked before.

        Raises:
            InvalidRequest: one of them is not what it may be.
        """
        asked = tuple(specs) if isinstance(specs, list) else specs
        try:
            return _kept_query(asked, output, normalize, dtype, color_mode)
        except TypeError:
            # One of them has no hash, so it is nothing that may be asked; what it may be is said there.
            return _query(asked, output, normalize, dtype, color_mode)

    def template_for(self, payload: Payload) -> RequestTemplate:
        """The kind that a call which asks this about `payload` is of; the same object for equal calls.

        Raises:
            InvalidRequest: a colour mode was asked for, and the payload is a tensor.
        """
        if isinstance(payload, ImagePayload):
            key, dtype, shape = None, None, None
        else:
            dtype, shape = payload.array.dtype, payload.array.shape
            key = dtype, shape
        kind = self._kinds.get(key)
        if kind is None:
            if self.color_mode is not None and shape is not None:
                raise InvalidRequest(
                    "is for pictures; a tensor is pooled in the channels that it has", field="color_mode"
                )
            if len(self._kinds) >= _KINDS_KEPT:
                self._kinds.clear()
            kind = self._kinds.setdefault(key, RequestTemplate(self, dtype, shape))
        return kind

    def message(self, payload: Payload) -> bytes:
        """The PoolRequest that asks this about `payload`.

        Raises:
            InvalidRequest: a colour mode was asked for, and the payload is a tensor.
        """
        return self.template_for(payload).request(payload.data)


def _query(specs: object, output: object, normalize: object, dtype: object, color_mode: object) -> PoolQuery:
    if not isinstance(output, str) or output not in OUTPUTS:
        raise InvalidRequest(
            f'must be "tensor" or "features" (pool_image gives pictures); got {output!r}', field="output"
        )
    if not isinstance(normalize, bool):
        raise InvalidRequest(f"must be True or False; got {normalize!r}", field="normalize")
    if normalize and output != "features":
        raise InvalidRequest('only feature vectors are normalised: ask for output="features" too', field="normalize")
    if not isinstance(color_mode, str | None) or color_mode not in COLOR_MODES:
        raise InvalidRequest(f'must be "RGB", "GRAY" or "RGBA"; got {color_mode!r}', field="color_mode")
    wanted = (specs,) if isinstance(specs, PoolSpec) else _several(specs)
    if output == "image":
        for number, spec in enumerate(wanted):
            if getattr(spec, "return_indices", False):
                raise InvalidRequest(
                    "pictures come without indices; leave it out", field=f"specs[{number}].return_indices"
                )
    return PoolQuery(
        wanted,
        isinstance(specs, PoolSpec),
        output,
        normalize,
        dtype is not None and _is_float16(dtype),
        color_mode,
    )


# By type too: 1 is not True, nor is it asked for as such.
_kept_query = lru_cache(maxsize=_QUERIES_KEPT, typed=True)(_query)


def _several(specs: object) -> tuple[PoolSpec, ...]:
    if isinstance(specs, Sequence) and not isinstance(specs, str):
        several = tuple(specs)
        for number, spec in enumerate(several):
            if not isinstance(spec, PoolSpec):
                raise InvalidRequest(
                    f"must be a spec such as MaxPool2d(2); got {instead_of(spec)}", field=f"specs[{number}]"
                )
        if several:
            return several
        raise InvalidRequest("at least one is needed, such as MaxPool2d(2)", field="specs")
    raise InvalidRequest(
        f"must be a spec such as MaxPool2d(2), or a list of them; got {instead_of(specs)}", field="specs"
    )


def _is_float16(dtype: object) -> bool:
    try:
        if np.dtype(dtype) == np.float16:  # type: ignore[call-overload]
            return True
    except TypeError:
        pass
    raise InvalidRequest(f'must be "float16", or None for the type that the layer gives; got {dtype!r}', field="dtype")
