"""The messages that a map's items travel in: alone, stacked into one tensor, or side by side in a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from poolservice.codec import MalformedMessage, decode_batch_response, encode_batch_request
from poolservice.errors import PoolError
from poolservice_client._map.items import Item, Outcome
from poolservice_client._request.query import PoolQuery
from poolservice_client._response.reader import read_response, read_stacked_response
from poolservice_client._response.status import error_of_status
from poolservice_client._transport.methods import POOL, POOL_BATCH
from poolservice_client.errors import ServerError


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """What is sent in one call for one item or several.

    Attributes:
        items: those that it carries.
        stacked: whether they are tensors of equal shape and type, which go as one tensor and one request.
    """

    items: Sequence[Item]
    stacked: bool = False

    @property
    def method(self) -> str:
        """The method that takes it."""
        return POOL if self.stacked or len(self.items) == 1 else POOL_BATCH

    def encode(self) -> bytes:
        """The bytes that are sent."""
        kind = self.items[0].kind
        if self.stacked and kind is not None:
            return kind.stacked_request([item.content for item in self.items])
        if len(self.items) == 1:
            return self.items[0].request()
        return encode_batch_request([item.request() for item in self.items])

    def outcomes(self, answer: bytes, query: PoolQuery) -> list[Outcome]:
        """What the answer says of each item.

        Raises:
            ServerError: it is no answer to this message.
        """
        kind = self.items[0].kind
        if self.stacked and kind is not None:
            return [*read_stacked_response(answer, query, len(self.items), kind.rows)]
        if len(self.items) == 1:
            return [read_response(answer, query, execution=True)]
        return self._batch_outcomes(answer, query)

    def _batch_outcomes(self, answer: bytes, query: PoolQuery) -> list[Outcome]:
        try:
            answers = decode_batch_response(answer)
        except MalformedMessage as error:
            raise ServerError(f"the server's answer cannot be read: {error}") from None
        if len(answers) != len(self.items):
            raise ServerError(f"{len(self.items)} items were sent and {len(answers)} results came back")
        outcomes: list[Outcome] = []
        for status, response in answers:
            if status.code:
                outcomes.append(error_of_status(status))
                continue
            try:
                outcomes.append(read_response(response or b"", query, execution=True))
            except PoolError as error:
                outcomes.append(error)
        return outcomes
