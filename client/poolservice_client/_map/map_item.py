"""MapItem, which `map` yields with items=True."""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from poolservice.errors import PoolError
from poolservice_client._response.reader import Execution

T_co = TypeVar("T_co", covariant=True)


# No equality: arrays that are compared with == give arrays.
@dataclass(frozen=True, slots=True, eq=False)
class MapItem(Generic[T_co]):
    """One input of ``client.map(..., items=True)`` and its outcome.

    Exactly one of `result` and `error` is None. Type checkers know the type of `result` after ``result is not None``.

    Attributes:
        index: the position of the input in the iterable, from 0.
        input: the input as the iterable gave it; the object itself, not a copy.
        result: what `pool` returns for this input; None if the item failed.
        error: why the item failed; None if it succeeded.
        execution: where and how the request was executed; None if the item failed.
    """

    index: int
    input: Any = field(repr=False)
    result: T_co | None
    error: PoolError | None
    execution: Execution | None
