"""The calls of the gallery: every layer of the table that the server offers, applied to one sample, many at once."""

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from poolservice.specs import LAYERS, PoolSpec, TensorParameter
from poolservice_client import AsyncPoolClient, InvalidRequest, ServerInfo
from poolservice_client._cli import sdk_errors
from poolservice_client._cli.gallery_table import GALLERY, Example, Sample, Unpooling, of_head

# The number of calls in flight at a time.
_CONCURRENCY = 8
_NO_HEAD = "no pool head of this server takes {} channels of {} x {}"


class Shown(NamedTuple):
    """A layer of the gallery.

    Attributes:
        group: the heading under which it stands.
        caption: the layer with its parameters.
        values: its result; None if there is none.
        reason: why there is none; else empty.
    """

    group: str
    caption: str
    values: "np.ndarray[Any, Any] | None"
    reason: str


class Coverage(NamedTuple):
    """Which operators the gallery shows.

    Attributes:
        shown: the operators of the server that are in the table, in its order.
        lacking: the operators that this server does not have.
        unknown: the operators of the server that this client does not know.
        other_dims: the operators of the server that do not pool two dimensions.
    """

    shown: list[str]
    lacking: list[str]
    unknown: list[str]
    other_dims: list[str]


def coverage(info: ServerInfo) -> Coverage:
    """Return which operators of a server the gallery shows: those that pool two dimensions."""
    dims = {operator.name: operator.spatial_dims for operator in info.operators}
    return Coverage(
        shown=[name for name in GALLERY if 2 in dims.get(name, ())],
        lacking=[name for name in GALLERY if name not in dims],
        unknown=[name for name in dims if name not in GALLERY],
        other_dims=[name for name in GALLERY if name in dims and 2 not in dims[name]],
    )


async def pool_all(
    client: AsyncPoolClient, x: "np.ndarray[Any, Any]", sample: Sample, operators: Sequence[str]
) -> list[Shown]:
    """Return the results of the operators' examples for `x`, (C, H, W), in their order.

    A layer that is not defined for the sample, or that the server refuses, has a reason instead of a result.

    Raises:
        PoolError: the server does not respond, or fails.
    """
    slots = asyncio.Semaphore(_CONCURRENCY)

    async def pool(operator: str, example: Example) -> Shown:
        async with slots:
            return await _pool(client, x, sample, operator, example)

    calls = []
    # In a group, because the first error cancels the other calls.
    try:
        async with asyncio.TaskGroup() as group:
            for operator in operators:
                examples = GALLERY[operator].examples
                if operator == "pool_head":
                    examples = tuple(map(of_head, sample.fitting_heads())) or (_no_head,)
                calls += [group.create_task(pool(operator, example)) for example in examples]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [call.result() for call in calls]


async def _pool(
    client: AsyncPoolClient, x: "np.ndarray[Any, Any]", sample: Sample, operator: str, example: Example
) -> Shown:
    group = GALLERY[operator].group
    caption = LAYERS[operator, 2].__name__
    try:
        layer = example(sample)
        if isinstance(layer, Unpooling):
            result = await client.pool(x, layer.first)
            x, indices = result if isinstance(result, tuple) else (result, None)
            layer = layer.then(indices)
        caption = _caption(layer)
        result = await client.pool(x, layer)
    except InvalidRequest as error:
        if sdk_errors.is_usage_error(error):
            raise
        field = error.field.removeprefix("specs[0].")
        return Shown(group, caption, None, f"{field}: {error.reason}" if field else error.reason)
    return Shown(group, caption, result[0] if isinstance(result, tuple) else result, "")


def _no_head(sample: Sample) -> PoolSpec:
    raise InvalidRequest(_NO_HEAD.format(sample.channels, *sample.size))


def _caption(layer: PoolSpec) -> str:
    """Return the layer as it would be written, with the shapes of its tensors instead of their values."""
    text = repr(layer)
    for field in fields(layer):
        value = getattr(layer, field.name)
        if isinstance(value, TensorParameter):
            text = text.replace(repr(value), f"<{value.array.dtype.name} {value.array.shape}>")
    return text
