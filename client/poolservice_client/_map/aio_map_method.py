"""`map` of the asyncio client, and the types of its results."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, Unpack, overload

from poolservice.specs import PoolSpec
from poolservice_client._map.aio_runner import map_async
from poolservice_client._map.input_check import check_iterable
from poolservice_client._map.map_item import MapItem
from poolservice_client._map.options import MapBackboneKeywords, MapKeywords, MapOptions, OnError
from poolservice_client._map.yielded_values import Results, progress_of
from poolservice_client._request.layout import Layout
from poolservice_client._request.options import ColorMode, Output
from poolservice_client._request.payload import Poolable
from poolservice_client._request.query import PoolQuery
from poolservice_client._response.static_types import Array, ArraySpec, R, TensorSpec
from poolservice_client._response.torch_tensors import Numpy, Returns, Tensor, Torch
from poolservice_client._settings.settings import Settings
from poolservice_client._transport.aio import AsyncTransport

Inputs: TypeAlias = Iterable[Poolable] | AsyncIterable[Poolable]


class AsyncMap:
    """The `map` method of AsyncPoolClient."""

    _settings: Settings
    _transport: AsyncTransport

    @overload
    def map(
        self,
        xs: Inputs,
        specs: ArraySpec[R],
        *,
        items: Literal[False] = False,
        on_error: OnError | None = None,
        returns: Numpy = "numpy",
        **options: Unpack[MapKeywords],
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: ArraySpec[R],
        *,
        items: Literal[True],
        returns: Numpy = "numpy",
        **options: Unpack[MapKeywords],
    ) -> AsyncGenerator[MapItem[R], None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: Sequence[ArraySpec[R]],
        *,
        items: Literal[False] = False,
        on_error: OnError | None = None,
        returns: Numpy = "numpy",
        **options: Unpack[MapKeywords],
    ) -> AsyncGenerator[list[R], None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: Sequence[ArraySpec[R]],
        *,
        items: Literal[True],
        returns: Numpy = "numpy",
        **options: Unpack[MapKeywords],
    ) -> AsyncGenerator[MapItem[list[R]], None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: TensorSpec[R],
        *,
        items: Literal[False] = False,
        on_error: OnError | None = None,
        returns: Torch,
        **options: Unpack[MapKeywords],
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: TensorSpec[R],
        *,
        items: Literal[True],
        returns: Torch,
        **options: Unpack[MapKeywords],
    ) -> AsyncGenerator[MapItem[R], None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: Sequence[TensorSpec[R]],
        *,
        items: Literal[False] = False,
        on_error: OnError | None = None,
        returns: Torch,
        **options: Unpack[MapKeywords],
    ) -> AsyncGenerator[list[R], None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: Sequence[TensorSpec[R]],
        *,
        items: Literal[True],
        returns: Torch,
        **options: Unpack[MapKeywords],
    ) -> AsyncGenerator[MapItem[list[R]], None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: PoolSpec | Sequence[PoolSpec],
        *,
        items: bool = False,
        on_error: OnError | None = None,
        returns: Returns = "numpy",
        **options: Unpack[MapKeywords],
    ) -> AsyncGenerator[Any, None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: None = None,
        *,
        backbone: str,
        items: Literal[False] = False,
        on_error: OnError | None = None,
        returns: Numpy = "numpy",
        **options: Unpack[MapBackboneKeywords],
    ) -> AsyncGenerator[Array, None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: None = None,
        *,
        backbone: str,
        items: Literal[True],
        returns: Numpy = "numpy",
        **options: Unpack[MapBackboneKeywords],
    ) -> AsyncGenerator[MapItem[Array], None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: None = None,
        *,
        backbone: str,
        items: Literal[False] = False,
        on_error: OnError | None = None,
        returns: Torch,
        **options: Unpack[MapBackboneKeywords],
    ) -> AsyncGenerator[Tensor, None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: None = None,
        *,
        backbone: str,
        items: Literal[True],
        returns: Torch,
        **options: Unpack[MapBackboneKeywords],
    ) -> AsyncGenerator[MapItem[Tensor], None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: None = None,
        *,
        backbone: str,
        items: bool = False,
        on_error: OnError | None = None,
        returns: Returns = "numpy",
        **options: Unpack[MapBackboneKeywords],
    ) -> AsyncGenerator[Any, None]: ...
    def map(
        self,
        xs: Iterable[Any] | AsyncIterable[Any],
        specs: PoolSpec[Any] | Sequence[PoolSpec[Any]] | None = None,
        *,
        backbone: str | None = None,
        tap: str | None = None,
        items: bool = False,
        on_error: OnError | None = None,
        ordered: bool = True,
        in_flight: int | None = None,
        progress: bool = False,
        timeout: float | None = None,
        output: Output = "tensor",
        normalize: bool = False,
        dtype: Literal["float16"] | None = None,
        color_mode: ColorMode | None = None,
        layout: Layout | None = None,
        returns: Returns = "numpy",
    ) -> Any:
        """Pool many tensors or images in bounded memory; see PoolClient.map for the arguments and errors.

        It differs from PoolClient.map in two points. `xs` may also be an asynchronous iterable, and a task of the map
        reads it, even while no result is requested. The returned generator cancels the running calls when it is
        closed (``contextlib.aclosing`` does this at the end of its block), when the task that waits for it is
        cancelled, or soon after a ``break``, when the event loop closes it.
        """
        query = PoolQuery.of(
            specs,
            output=output,
            normalize=normalize,
            dtype=dtype,
            color_mode=color_mode,
            layout=layout,
            backbone=backbone,
            tap=tap,
        )
        options = MapOptions.of(ordered=ordered, in_flight=in_flight, on_error=on_error, items=items, returns=returns)
        return map_async(
            xs if isinstance(xs, AsyncIterable) else check_iterable(xs),
            query,
            options,
            self._transport,
            self._settings.call_timeout(timeout),
            self._settings.retries,
            Results(options, progress_of(xs) if progress else None),
        )
