"""The keywords of map, by the form in which they ask for each result."""

from typing import Literal, TypedDict

from poolservice_client._request.query import PoolOptions


class MapKeywords(PoolOptions, total=False):
    """Those that say nothing of it: those of pool, and how the map goes."""

    ordered: bool
    in_flight: int | None
    progress: bool


class _Bare(TypedDict, total=False):
    execution: Literal[False]


class _WithExecution(TypedDict):
    execution: Literal[True]


class _Raising(TypedDict, total=False):
    on_error: Literal["raise", "skip"]


class _Returning(TypedDict):
    on_error: Literal["return"]


class _Unnumbered(TypedDict, total=False):
    indexed: Literal[False]


class _Numbered(TypedDict):
    indexed: Literal[True]


class Plain(MapKeywords, _Bare, _Raising, _Unnumbered):
    """Just the result."""


class Indexed(MapKeywords, _Bare, _Raising, _Numbered):
    """(index, result)."""


class Kept(MapKeywords, _Bare, _Returning, _Unnumbered):
    """The result, or the PoolError."""


class IndexedKept(MapKeywords, _Bare, _Returning, _Numbered):
    """(index, result or PoolError)."""


class Replies(MapKeywords, _WithExecution, _Raising, _Unnumbered):
    """A PoolResponse."""


class IndexedReplies(MapKeywords, _WithExecution, _Raising, _Numbered):
    """(index, PoolResponse)."""


class Outcomes(MapKeywords, _WithExecution, _Returning, _Unnumbered):
    """A PoolResponse, or the PoolError."""


class IndexedOutcomes(MapKeywords, _WithExecution, _Returning, _Numbered):
    """(index, PoolResponse or PoolError)."""
