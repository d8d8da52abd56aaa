"""`map`, as the clients have it."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Sequence, Sized
from typing import Any, Literal

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice_client._aio_transport import AsyncTransport
from poolservice_client._map.aio import map_async
from poolservice_client._map.blocking import map_blocking
from poolservice_client._map.items import MapOptions, OnError
from poolservice_client._map.results import Results
from poolservice_client._payload import Poolable
from poolservice_client._request import ColorMode, Output, PoolQuery
from poolservice_client._settings import Settings
from poolservice_client._transport import Transport


class BlockingMap:
    """The part of PoolClient that maps."""

    _settings: Settings
    _transport: Transport

    def map(
        self,
        xs: Iterable[Poolable],
        specs: PoolSpec | Sequence[PoolSpec],
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
    ) -> Generator[Any, None, None]:
        """Pool each of many."""
        query = PoolQuery.of(specs, output=output, normalize=normalize, dtype=dtype, color_mode=color_mode)
        options = MapOptions.of(
            ordered=ordered, in_flight=in_flight, on_error=on_error, indexed=indexed, execution=execution
        )
        return map_blocking(
            iter(_iterable(xs)),
            query,
            options,
            self._transport,
            self._settings.deadline(timeout),
            _results(xs, options, progress=progress),
        )


class AsyncMap:
    """The part of AsyncPoolClient that maps."""

    _settings: Settings
    _transport: AsyncTransport

    def map(
        self,
        xs: Iterable[Poolable] | AsyncIterable[Poolable],
        specs: PoolSpec | Sequence[PoolSpec],
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
    ) -> AsyncGenerator[Any, None]:
        """Pool each of many."""
        query = PoolQuery.of(specs, output=output, normalize=normalize, dtype=dtype, color_mode=color_mode)
        options = MapOptions.of(
            ordered=ordered, in_flight=in_flight, on_error=on_error, indexed=indexed, execution=execution
        )
        return map_async(
            xs if isinstance(xs, AsyncIterable) else _iterable(xs),
            query,
            options,
            self._transport,
            self._settings.deadline(timeout),
            _results(xs, options, progress=progress),
        )


def _iterable(xs: Any) -> Iterable[Any]:
    """`xs`, unless it is one picture rather than many."""
    if isinstance(xs, str | bytes | bytearray | memoryview) or not isinstance(xs, Iterable):
        raise InvalidRequest(
            f"map takes an iterable of tensors or pictures; got one {type(xs).__name__}: use pool, or give a list",
            field="xs",
        )
    return xs


def _results(xs: object, options: MapOptions, *, progress: bool) -> Results:
    convert: Callable[[Any], Any] = _as_it_is
    if not progress:
        return Results(options, convert, None)
    # Only who watches pays for rich.
    from poolservice_client._map.progress import Progress

    return Results(options, convert, Progress(len(xs) if isinstance(xs, Sized) else None))


def _as_it_is(result: Any) -> Any:
    return result
