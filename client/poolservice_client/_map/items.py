"""What a map is asked for, and one item on its way through it."""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from poolservice.codec.wire import size_of
from poolservice.errors import InvalidRequest, PoolError
from poolservice.specs.base import integer
from poolservice_client._request.files import path_of, with_path
from poolservice_client._request.payload import ImagePayload, make_payload
from poolservice_client._request.query import PoolQuery
from poolservice_client._request.template import RequestTemplate
from poolservice_client._response.reader import PoolResponse

OnError: TypeAlias = Literal["raise", "return", "skip"]
Outcome: TypeAlias = PoolResponse[Any] | PoolError

#: Larger items, in bytes, travel alone. Measured with tests/bench/map.py: a call of its own costs client and server
#: together about as much as copying this twice.
_SMALL_TENSOR = 256 * 1024
#: To decode a picture costs more than to send it: only for thumbnails is the call worth saving, and a picture that
#: waits for the rest of its pack holds a place meanwhile.
_SMALL_IMAGE = 32 * 1024


@dataclass(frozen=True, slots=True)
class MapOptions:
    """How results are given, checked. See PoolClient.map."""

    ordered: bool
    in_flight: int | None
    on_error: OnError
    indexed: bool
    execution: bool
    torch: bool

    @classmethod
    def of(
        cls, *, ordered: object, in_flight: object, on_error: object, indexed: object, execution: object, torch: bool
    ) -> "MapOptions":
        """The options for what a caller gave.

        Raises:
            InvalidRequest: one of them is not what it may be.
        """
        if on_error not in ("raise", "return", "skip"):
            raise InvalidRequest(f'must be "raise", "return" or "skip"; got {on_error!r}', field="on_error")
        if in_flight is not None and integer("in_flight", in_flight) < 1:
            raise InvalidRequest(f"must be 1 or more items, or None; got {in_flight!r}", field="in_flight")
        return cls(
            bool(ordered),
            None if in_flight is None else integer("in_flight", in_flight),
            on_error,
            bool(indexed),
            bool(execution),
            torch,
        )


@dataclass(slots=True, eq=False)
class Item:
    """One input: what is sent for it, and what came of it.

    Attributes:
        index: its place in the iterable, from 0.
        source: what the iterable gave, until it is prepared.
        prepared: whether it was made into what is sent.
        kind: the kind of request that it makes; None until it is prepared.
        small: whether it travels in packs.
        content: what is sent: the whole request of a large item, the payload's bytes of a small one.
        nbytes: the bytes that it holds.
        deadline: when its answer must be there, in time.monotonic(); known once it is first sent.
        tries: how often it was sent in vain.
        path: the file that the source named; None where it was no path.
        refusal: why it cannot be sent; known once it is prepared.
        outcome: its result or its error, once it is settled.
    """

    index: int
    source: Any
    prepared: bool = False
    kind: RequestTemplate | None = None
    small: bool = False
    content: bytes = b""
    nbytes: int = 0
    deadline: float = math.inf
    tries: int = 0
    path: str | None = None
    refusal: InvalidRequest | None = None
    outcome: Outcome | None = None

    def prepare(self, query: PoolQuery) -> None:
        """Turn the source into what is sent: a copy of its own, so that whoever made it may use it again.

        A source that cannot be sent leaves a refusal.
        """
        source, self.source = self.source, None
        self.path = path_of(source)
        self.prepared = True
        try:
            prepared = make_payload(source)
            self.kind = query.template_for(prepared)
        except InvalidRequest as error:
            self.refusal = error
            return
        except OSError as error:
            self.refusal = InvalidRequest(error.strerror or str(error), field="x")
            self.refusal.__cause__ = error
            return
        self.nbytes = size_of(prepared.data)
        self.small = self.nbytes <= (_SMALL_IMAGE if isinstance(prepared, ImagePayload) else _SMALL_TENSOR)
        self.content = bytes(prepared.data) if self.small else self.kind.request(prepared.data)

    def settle(self, outcome: Outcome, nbytes: int) -> None:
        """Keep what came of it, and drop what was sent."""
        self.outcome = with_path(outcome, self.path) if isinstance(outcome, InvalidRequest) else outcome
        self.content = b""
        self.nbytes = nbytes

    @property
    def settled(self) -> Outcome:
        """Its outcome; only once there is one."""
        if self.outcome is None:
            raise RuntimeError(f"item {self.index} of a map was given before it had an outcome")
        return self.outcome

    def request(self) -> bytes:
        """The PoolRequest for it alone."""
        return self.kind.request(self.content) if self.small and self.kind is not None else self.content

    def travel_alone(self) -> None:
        """Send it by itself from now on: those that it travelled with failed together."""
        self.content = self.request()
        self.small = False
