"""The options of `map`: their types and their validation."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.validation import integer
from poolservice_client._request.options import BackboneOptions, PoolOptions
from poolservice_client._response.torch_tensors import wants_torch
from poolservice_client._suggestions import is_choice, suggestion

OnError: TypeAlias = Literal["raise", "skip"]


class MapKeywords(PoolOptions, total=False):
    """The keywords of `map` that do not change the type of what it yields."""

    ordered: bool
    in_flight: int | None
    progress: bool


class MapBackboneKeywords(BackboneOptions, total=False):
    """The keywords of `map` without specs, except `backbone`, that do not change the type of what it yields."""

    ordered: bool
    in_flight: int | None
    progress: bool


@dataclass(frozen=True, slots=True)
class MapOptions:
    """The validated options of one map; see PoolClient.map.

    Attributes:
        ordered: whether results are yielded in the order of the inputs.
        in_flight: the most items that are read and not yet yielded; None for the default.
        on_error: what to do about an item that failed; None if each input is yielded as a MapItem.
        torch: whether results are torch tensors.
    """

    ordered: bool
    in_flight: int | None
    on_error: OnError | None
    torch: bool

    @property
    def items(self) -> bool:
        """True if each input is yielded as a MapItem."""
        return self.on_error is None

    @classmethod
    def of(
        cls, *, ordered: object, in_flight: object, on_error: object, items: object, returns: object
    ) -> "MapOptions":
        """Return the options for a caller's arguments.

        Raises:
            InvalidRequest: an argument has a wrong value.
        """
        if on_error is not None and not is_choice(on_error, ("raise", "skip")):
            raise InvalidRequest(
                f'must be "raise" or "skip" (or pass items=True to get the errors); got {on_error!r}'
                f"{suggestion(on_error, ('raise', 'skip'))}",
                field="on_error",
            )
        if items and on_error is not None:
            raise InvalidRequest(
                f"items=True yields the error of a failed item in its MapItem; leave on_error out; got {on_error!r}",
                field="on_error",
            )
        if in_flight is not None and integer("in_flight", in_flight) < 1:
            raise InvalidRequest(f"must be 1 or more items, or None; got {in_flight!r}", field="in_flight")
        return cls(
            bool(ordered),
            None if in_flight is None else integer("in_flight", in_flight),
            None if items else cast(OnError | None, on_error) or "raise",
            wants_torch(returns),
        )
