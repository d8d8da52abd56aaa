"""`map`, as the client for asyncio has it, and what an editor knows of what comes back."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, Unpack, overload

from poolservice.errors import PoolError
from poolservice.specs import PoolSpec
from poolservice_client._map.aio_runner import map_async
from poolservice_client._map.items import MapOptions, OnError
from poolservice_client._map.keywords import (
    Indexed,
    IndexedKept,
    IndexedOutcomes,
    IndexedReplies,
    Kept,
    MapKeywords,
    Outcomes,
    Plain,
    Replies,
)
from poolservice_client._map.results import Results, progress_of
from poolservice_client._map.source import iterable
from poolservice_client._request.payload import Poolable
from poolservice_client._request.query import ColorMode, Output, PoolQuery
from poolservice_client._response.reader import PoolResponse
from poolservice_client._response.result_types import ArraySpec, R, TensorSpec
from poolservice_client._response.torch_tensors import Numpy, Returns, Torch, wants_torch
from poolservice_client._settings.settings import Settings
from poolservice_client._transport.aio import AsyncTransport

Items: TypeAlias = Iterable[Poolable] | AsyncIterable[Poolable]


class AsyncMap:
    """The part of AsyncPoolClient that maps."""

    _settings: Settings
    _transport: AsyncTransport

    @overload
    def map(
        self, xs: Items, specs: ArraySpec[R], *, returns: Numpy = "numpy", **options: Unpack[Plain]
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self, xs: Items, specs: ArraySpec[R], *, returns: Numpy = "numpy", **options: Unpack[Indexed]
    ) -> AsyncGenerator[tuple[int, R], None]: ...
    @overload
    def map(
        self, xs: Items, specs: ArraySpec[R], *, returns: Numpy = "numpy", **options: Unpack[Kept]
    ) -> AsyncGenerator[R | PoolError, None]: ...
    @overload
    def map(
        self, xs: Items, specs: ArraySpec[R], *, returns: Numpy = "numpy", **options: Unpack[IndexedKept]
    ) -> AsyncGenerator[tuple[int, R | PoolError], None]: ...
    @overload
    def map(
        self, xs: Items, specs: ArraySpec[R], *, returns: Numpy = "numpy", **options: Unpack[Replies]
    ) -> AsyncGenerator[PoolResponse[R], None]: ...
    @overload
    def map(
        self, xs: Items, specs: ArraySpec[R], *, returns: Numpy = "numpy", **options: Unpack[IndexedReplies]
    ) -> AsyncGenerator[tuple[int, PoolResponse[R]], None]: ...
    @overload
    def map(
        self, xs: Items, specs: ArraySpec[R], *, returns: Numpy = "numpy", **options: Unpack[Outcomes]
    ) -> AsyncGenerator[PoolResponse[R] | PoolError, None]: ...
    @overload
    def map(
        self, xs: Items, specs: ArraySpec[R], *, returns: Numpy = "numpy", **options: Unpack[IndexedOutcomes]
    ) -> AsyncGenerator[tuple[int, PoolResponse[R] | PoolError], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[ArraySpec[R]], *, returns: Numpy = "numpy", **options: Unpack[Plain]
    ) -> AsyncGenerator[list[R], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[ArraySpec[R]], *, returns: Numpy = "numpy", **options: Unpack[Indexed]
    ) -> AsyncGenerator[tuple[int, list[R]], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[ArraySpec[R]], *, returns: Numpy = "numpy", **options: Unpack[Kept]
    ) -> AsyncGenerator[list[R] | PoolError, None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[ArraySpec[R]], *, returns: Numpy = "numpy", **options: Unpack[IndexedKept]
    ) -> AsyncGenerator[tuple[int, list[R] | PoolError], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[ArraySpec[R]], *, returns: Numpy = "numpy", **options: Unpack[Replies]
    ) -> AsyncGenerator[PoolResponse[list[R]], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[ArraySpec[R]], *, returns: Numpy = "numpy", **options: Unpack[IndexedReplies]
    ) -> AsyncGenerator[tuple[int, PoolResponse[list[R]]], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[ArraySpec[R]], *, returns: Numpy = "numpy", **options: Unpack[Outcomes]
    ) -> AsyncGenerator[PoolResponse[list[R]] | PoolError, None]: ...
    @overload
    def map(
        self,
        xs: Items,
        specs: Sequence[ArraySpec[R]],
        *,
        returns: Numpy = "numpy",
        **options: Unpack[IndexedOutcomes],
    ) -> AsyncGenerator[tuple[int, PoolResponse[list[R]] | PoolError], None]: ...
    @overload
    def map(
        self, xs: Items, specs: TensorSpec[R], *, returns: Torch, **options: Unpack[Plain]
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self, xs: Items, specs: TensorSpec[R], *, returns: Torch, **options: Unpack[Indexed]
    ) -> AsyncGenerator[tuple[int, R], None]: ...
    @overload
    def map(
        self, xs: Items, specs: TensorSpec[R], *, returns: Torch, **options: Unpack[Kept]
    ) -> AsyncGenerator[R | PoolError, None]: ...
    @overload
    def map(
        self, xs: Items, specs: TensorSpec[R], *, returns: Torch, **options: Unpack[IndexedKept]
    ) -> AsyncGenerator[tuple[int, R | PoolError], None]: ...
    @overload
    def map(
        self, xs: Items, specs: TensorSpec[R], *, returns: Torch, **options: Unpack[Replies]
    ) -> AsyncGenerator[PoolResponse[R], None]: ...
    @overload
    def map(
        self, xs: Items, specs: TensorSpec[R], *, returns: Torch, **options: Unpack[IndexedReplies]
    ) -> AsyncGenerator[tuple[int, PoolResponse[R]], None]: ...
    @overload
    def map(
        self, xs: Items, specs: TensorSpec[R], *, returns: Torch, **options: Unpack[Outcomes]
    ) -> AsyncGenerator[PoolResponse[R] | PoolError, None]: ...
    @overload
    def map(
        self, xs: Items, specs: TensorSpec[R], *, returns: Torch, **options: Unpack[IndexedOutcomes]
    ) -> AsyncGenerator[tuple[int, PoolResponse[R] | PoolError], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[TensorSpec[R]], *, returns: Torch, **options: Unpack[Plain]
    ) -> AsyncGenerator[list[R], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[TensorSpec[R]], *, returns: Torch, **options: Unpack[Indexed]
    ) -> AsyncGenerator[tuple[int, list[R]], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[TensorSpec[R]], *, returns: Torch, **options: Unpack[Kept]
    ) -> AsyncGenerator[list[R] | PoolError, None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[TensorSpec[R]], *, returns: Torch, **options: Unpack[IndexedKept]
    ) -> AsyncGenerator[tuple[int, list[R] | PoolError], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[TensorSpec[R]], *, returns: Torch, **options: Unpack[Replies]
    ) -> AsyncGenerator[PoolResponse[list[R]], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[TensorSpec[R]], *, returns: Torch, **options: Unpack[IndexedReplies]
    ) -> AsyncGenerator[tuple[int, PoolResponse[list[R]]], None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[TensorSpec[R]], *, returns: Torch, **options: Unpack[Outcomes]
    ) -> AsyncGenerator[PoolResponse[list[R]] | PoolError, None]: ...
    @overload
    def map(
        self, xs: Items, specs: Sequence[TensorSpec[R]], *, returns: Torch, **options: Unpack[IndexedOutcomes]
    ) -> AsyncGenerator[tuple[int, PoolResponse[list[R]] | PoolError], None]: ...
    @overload
    def map(
        self,
        xs: Items,
        specs: PoolSpec | Sequence[PoolSpec],
        *,
        on_error: OnError = "raise",
        indexed: bool = False,
        execution: bool = False,
        returns: Returns = "numpy",
        **options: Unpack[MapKeywords],
    ) -> AsyncGenerator[Any, None]: ...
    def map(
        self,
        xs: Iterable[Any] | AsyncIterable[Any],
        specs: PoolSpec[Any] | Sequence[PoolSpec[Any]],
        *,
        ordered: bool = True,
        in_flight: int | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
        timeout: float | None = None,
        output: Output = "tensor",
        normalize: bool = False,
        dtype: Literal["float16"] | None = None,
        color_mode: ColorMode | None = None,
        indexed: bool = False,
        execution: bool = False,
        returns: Returns = "numpy",
    ) -> Any:
        """Pool each of many tensors or pictures, keeping the server busy, in bounded memory.

        Small items travel together, large ones side by side; what is sent is chosen for the least cost. Items that a
        restarting or overloaded server did not take are sent again within their time-outs: none is lost, and none
        comes twice. Paths are read, and PIL images encoded, on other threads.

        Args:
            xs: what is pooled, each as in `pool`: any iterable or asynchronous one, also an endless one. It is read by
                a task of its own, just far enough ahead to keep the server busy: at most 1024 items or 64 MB that are
                not given yet. Each is taken as it is when it is read, so that an array may be used again for the
                next; a PIL image is not copied.
            specs: how to pool each, as in `pool`.
            ordered: whether results come in the order of `xs`; else as they complete.
            in_flight: the most items that are read and not yet given. Default: what keeps the server busy.
            on_error: what is done about an item that failed: "raise" its PoolError in its place, "return" the
                PoolError as its result, or "skip" it. What cannot be sent, a file that cannot be read too, has
                failed with InvalidRequest.
            progress: whether to show a bar with the rate, the failures and, where ``len(xs)`` is known, the time
                left, on standard error.
            timeout: seconds that each item has from when it is first sent. Default: the client's.
            output: as in `pool`, like `normalize`, `dtype` and `color_mode`.
            normalize: see `output`.
            dtype: see `output`.
            color_mode: see `output`.
            indexed: whether each result comes as (index, result), with its place in `xs`, from 0.
            execution: whether each result comes as a PoolResponse that tells where and how it ran, too.
            returns: "numpy" for arrays, "torch" for torch's tensors, which share the arrays' memory and keep bfloat16.

        Returns:
            An asynchronous generator of results. Cancelling who waits for it, or closing it (as
            ``contextlib.aclosing`` does, and the event loop soon after a ``break``), cancels what is under way.

        Raises:
            InvalidRequest: at once, where a spec or an option is wrong.
            PoolError: as in `pool`, where an item failed and `on_error` is "raise", after the results before it; or
                where the client is closed meanwhile.
            Exception: what `xs` itself raised, after the results of all that it gave before.
        """
        query = PoolQuery.of(specs, output=output, normalize=normalize, dtype=dtype, color_mode=color_mode)
        options = MapOptions.of(
            ordered=ordered,
            in_flight=in_flight,
            on_error=on_error,
            indexed=indexed,
            execution=execution,
            torch=wants_torch(returns),
        )
        return map_async(
            xs if isinstance(xs, AsyncIterable) else iterable(xs),
            query,
            options,
            self._transport,
            self._settings.call_timeout(timeout),
            Results(options, progress_of(xs) if progress else None),
        )
