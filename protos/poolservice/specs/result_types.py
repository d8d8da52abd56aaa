"""The type parameter of specs: what a spec returns, for type checkers. ``MaxPool2d(2)`` is a ``MaxPool2d[Values]``.

These classes are never instantiated. The method `of` of each maps the caller's array type (numpy's or torch's) to the
type of the result.

A layer with `return_indices` declares three overloads of its constructor: `return_indices` left out or False, True, and
a bool whose value is known only at run time. A type checker uses the first that fits.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # typing.TypeVar supports defaults from Python 3.13 on. With the default, PoolSpec means PoolSpec[ResultType].
    from typing_extensions import TypeVar
else:
    from typing import TypeVar

A = TypeVar("A")


class ResultType(ABC):
    """Either one array or a pair of arrays; the type checker cannot tell which."""

    @abstractmethod
    def of(self, array: A, /) -> A | Any:
        """Map the type of an array to the type of its result."""


class Values(ResultType):
    """One array: the pooled values."""

    @abstractmethod
    def of(self, array: A, /) -> A:
        """Map the type of an array to the type of its result."""


class ValuesAndIndices(ResultType):
    """A pair of arrays, the pooled values and their indices: `return_indices` is True."""

    @abstractmethod
    def of(self, array: A, /) -> tuple[A, A]:
        """Map the type of an array to the type of its result."""


#: The result type of a spec.
if TYPE_CHECKING:
    R_co = TypeVar("R_co", covariant=True, default=ResultType)
else:
    R_co = TypeVar("R_co", covariant=True)
