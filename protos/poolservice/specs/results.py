"""What a spec gives for an array, as type checkers are told: ``MaxPool2d(2)`` is a ``MaxPool2d[Values]``.

None of these classes is ever made. Each says with `of` what comes back, whatever type an array has for the caller:
numpy's here, torch's there.

A layer with `return_indices` states its constructor three times over, since a type checker takes the first that fits:
without it or with False, with True, and with a bool that only the run knows.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Python's own has defaults from 3.13 on; with one, PoolSpec alone is as good a type as PoolSpec[Result].
    from typing_extensions import TypeVar
else:
    from typing import TypeVar

A = TypeVar("A")


class Result(ABC):
    """Values, or a pair of values and indices: it is not known which."""

    @abstractmethod
    def of(self, array: A, /) -> A | Any:
        """What comes back for `array`."""


class Values(Result):
    """An array."""

    @abstractmethod
    def of(self, array: A, /) -> A:
        """What comes back for `array`."""


class ValuesAndIndices(Result):
    """A pair of arrays: `return_indices` is True."""

    @abstractmethod
    def of(self, array: A, /) -> tuple[A, A]:
        """What comes back for `array`."""


#: What a spec gives.
if TYPE_CHECKING:
    R_co = TypeVar("R_co", covariant=True, default=Result)
else:
    R_co = TypeVar("R_co", covariant=True)
