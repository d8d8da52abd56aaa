"""How what came of an item is given: as it is, raised, returned or left out; counted and shown."""

from collections.abc import Iterator, Sized
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from poolservice.errors import PoolError
from poolservice_client._map.items import Item, MapOptions
from poolservice_client._response.torch_tensors import as_tensors

if TYPE_CHECKING:
    from poolservice_client._map.progress import Progress


class Results:
    """Gives the results of one map in the form that its caller asked for.

    Args:
        options: that form.
        progress: where it is shown; None for nowhere.
    """

    def __init__(self, options: MapOptions, progress: "Progress | None") -> None:
        self._options = options
        self._progress = progress

    def of(self, item: Item) -> Iterator[Any]:
        """What the caller gets for a settled item: nothing, or one thing.

        Raises:
            PoolError: the item failed, and failures are to be raised.
        """
        outcome = item.settled
        if self._progress is not None:
            self._progress.advance(failed=isinstance(outcome, PoolError))
        if isinstance(outcome, PoolError):
            if self._options.on_error == "raise":
                outcome.add_note(f"It is what came of item {item.index} of the map, counted from 0.")
                raise outcome
            if self._options.on_error == "skip":
                return
            given: Any = outcome
        else:
            given = outcome if self._options.execution else outcome.result
            if self._options.torch:
                given = as_tensors(given)
        yield (item.index, given) if self._options.indexed else given

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


def progress_of(xs: object) -> "Progress":
    """The bar of a map of `xs`, with the time left where their number is known."""
    # Only who watches pays for rich.
    from poolservice_client._map.progress import Progress

    return Progress(len(xs) if isinstance(xs, Sized) else None)
