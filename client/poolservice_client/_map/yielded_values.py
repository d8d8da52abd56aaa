"""The values that `map` yields for its items."""

import sys
from collections.abc import Iterator, Sized
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from poolservice.errors import PoolError
from poolservice_client._map.item import Item
from poolservice_client._map.map_item import MapItem
from poolservice_client._map.options import MapOptions
from poolservice_client._response.torch_tensors import as_tensors

if TYPE_CHECKING:
    from poolservice_client._map.progress import Progress


class Results:
    """Converts settled items to the values that the caller asked for, and advances the progress bar.

    Args:
        options: the options of the map.
        progress: the progress bar; None for no bar.
    """

    def __init__(self, options: MapOptions, progress: "Progress | None") -> None:
        self._options = options
        self._progress = progress

    def of(self, item: Item) -> Iterator[Any]:
        """Yield the value for a settled item; nothing if the item is skipped.

        Raises:
            PoolError: the item failed, and `on_error` is "raise".
        """
        outcome = item.settled_outcome
        if self._progress is not None:
            self._progress.advance(failed=isinstance(outcome, PoolError))
        if isinstance(outcome, PoolError):
            if self._options.items:
                yield MapItem(item.index, item.input, None, outcome, None)
            elif self._options.on_error == "raise":
                outcome.add_note(f"This is the error of item {item.index} of the map (counted from 0).")
                raise outcome
            return
        result = as_tensors(outcome.result) if self._options.torch else outcome.result
        yield MapItem(item.index, item.input, result, None, outcome.execution) if self._options.items else result

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # While the interpreter shuts down, the thread that draws the bar no longer runs, and may hold its lock.
        if self._progress is not None and not sys.is_finalizing():
            self._progress.stop()


def progress_of(xs: object) -> "Progress":
    """Return a progress bar for `xs`; it shows the time left if `xs` has a length."""
    # Imported here so that only a map with a progress bar loads rich.
    from poolservice_client._map.progress import Progress

    return Progress(len(xs) if isinstance(xs, Sized) else None)
