"""How what came of an item is given: as it is, raised, returned or left out; counted and shown."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from poolservice.errors import PoolError
from poolservice_client._map.items import Item, MapOptions
from poolservice_client._map.progress import Progress


class Results:
    """Gives the results of one map in the form that its caller asked for.

    Args:
        options: that form.
        convert: what is made of a result: nothing, or torch's tensors.
        progress: where it is shown; None for nowhere.
    """

    def __init__(self, options: MapOptions, convert: Callable[[Any], Any], progress: Progress | None) -> None:
        self._options = options
        self._convert = convert
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
            given = self._convert(outcome.result)
            if self._options.execution:
                given = outcome._replace(result=given)
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
