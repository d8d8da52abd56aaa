"""`map` of the blocking client, and the types of its results."""

from collections.abc import Generator, Iterable, Sequence
from typing import Any, Literal, TypeAlias, Unpack, overload

from poolservice.specs import PoolSpec
from poolservice_client._map.blocking_runner import map_blocking
from poolservice_client._map.input_check import check_iterable
from poolservice_client._map.map_item import MapItem
from poolservice_client._map.open_maps import close_at_exit
from poolservice_client._map.options import MapBackboneKeywords, MapKeywords, MapOptions, OnError
from poolservice_client._map.yielded_values import Results, progress_of
from poolservice_client._request.layout import Layout
from poolservice_client._request.options import ColorMode, Output
from poolservice_client._request.payload import Poolable
from poolservice_client._request.query import PoolQuery
from poolservice_client._response.static_types import Array, ArraySpec, R, TensorSpec
from poolservice_client._response.torch_tensors import Numpy, Returns, Tensor, Torch
from poolservice_client._settings.settings import Settings
from poolservice_client._transport.blocking import Transport

Inputs: TypeAlias = Iterable[Poolable]


class BlockingMap:
    """The `map` method of PoolClient."""

    _settings: Settings
    _transport: Transport

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
    ) -> Generator[R, None, None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: ArraySpec[R],
        *,
        items: Literal[True],
        returns: Numpy = "numpy",
        **options: Unpack[MapKeywords],
    ) -> Generator[MapItem[R], None, None]: ...
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
    ) -> Generator[list[R], None, None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: Sequence[ArraySpec[R]],
        *,
        items: Literal[True],
        returns: Numpy = "numpy",
        **options: Unpack[MapKeywords],
    ) -> Generator[MapItem[list[R]], None, None]: ...
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
    ) -> Generator[R, None, None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: TensorSpec[R],
        *,
        items: Literal[True],
        returns: Torch,
        **options: Unpack[MapKeywords],
    ) -> Generator[MapItem[R], None, None]: ...
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
    ) -> Generator[list[R], None, None]: ...
    @overload
    def map(
        self,
        xs: Inputs,
        specs: Sequence[TensorSpec[R]],
        *,
        items: Literal[True],
        returns: Torch,
        **options: Unpack[MapKeywords],
    ) -> Generator[MapItem[list[R]], None, None]: ...
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
    ) -> Generator[Any, None, None]: ...
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
    ) -> Generator[Array, None, None]: ...
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
    ) -> Generator[MapItem[Array], None, None]: ...
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
    ) -> Generator[Tensor, None, None]: ...
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
    ) -> Generator[MapItem[Tensor], None, None]: ...
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
    ) -> Generator[Any, None, None]: ...
    def map(
        self,
        xs: Iterable[Any],
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
        """Pool many tensors or images in bounded memory, and keep the server busy meanwhile.

        Small items share messages; each large one has a message of its own. Several messages are sent concurrently.
        Other threads read paths and encode PIL images.

        Messages are retried under the client's RetryPolicy, within the timeout of their items. If the server restarts
        within 30 s, no item is lost and none is yielded twice. If a full queue refuses some items of a message, these
        are sent again together, which counts as one retry. With the client's ``retries=None``, an item fails on its
        first error. If one item may have caused the failure of its message, each item of the message is sent
        separately, which does not count as a retry.

        Args:
            xs: the inputs, each as in `pool`: any iterable, an endless one too. It is read in the caller's thread,
                when the next result is requested, and only far enough ahead to keep the server busy: at most 1024
                items or 64 MiB that are not yet yielded. Each input is copied when it is read, so that an array may be
                reused for the next input; a PIL image is not copied.
            specs: how to pool each input, as in `pool`.
            backbone: as in `pool`. Messages then have few items.
            tap: as in `pool`.
            items: whether to yield a MapItem for each input, with its index, input, result, error and execution. A
                failed item then raises nothing.
            on_error: what to do about an item that failed if `items` is False: "raise" its PoolError in its place, or
                "skip" the item. Default: "raise". An input that cannot be read or converted fails
                with InvalidRequest, whose ``__cause__`` is the original exception, if there is one.
            ordered: whether to yield results in the order of `xs`; otherwise each as soon as it arrives.
            in_flight: the most items that are read and not yet yielded. Default: 1024. The 64 MiB limit applies, too.
            progress: whether to show a bar on standard error, with the rate, the failures and, if ``len(xs)`` is
                known, the time left.
            timeout: seconds for each item from when it is first sent, retries included. It starts again when the server
                refuses the item because its queue is full or the caller has reached a quota; then `map` slows down.
                Such items fail if the server has refused items for this time and no item has succeeded meanwhile.
                Default: the client's timeout.
            output: as in `pool`.
            normalize: as in `pool`.
            dtype: as in `pool`.
            color_mode: as in `pool`.
            layout: as in `pool`.
            returns: "numpy" for arrays, "torch" for torch tensors, which share the arrays' memory and keep bfloat16.

        Returns:
            A generator of results: for each input what `pool` returns, or a MapItem. Leaving the loop, closing the
            generator or dropping it cancels the running calls and ends its threads. A generator that is still open
            when the program ends is closed then.

        Raises:
            InvalidRequest: immediately, if a spec or an option is invalid.
            PoolError: as in `pool`, if an item failed and `on_error` is "raise", after the results of the items before
                it; or, in either form, if the client is closed meanwhile.
            Exception: what `xs` itself raises, after the results of everything that was read before.
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
        return close_at_exit(
            map_blocking(
                iter(check_iterable(xs)),
                query,
                options,
                self._transport,
                self._settings.call_timeout(timeout),
                self._settings.retries,
                Results(options, progress_of(xs) if progress else None),
            )
        )
