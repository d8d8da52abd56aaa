"""The messages of a map: one item, several tensors stacked into one, or a batch of requests."""

from collections.abc import Sequence

from poolservice.codec import MalformedMessage, decode_batch_response, encode_batch_request
from poolservice.errors import PoolError
from poolservice_client._map.item import Item, Outcome
from poolservice_client._request.query import PoolQuery
from poolservice_client._response.reader import read_response, read_stacked_response
from poolservice_client._response.status import error_of_status
from poolservice_client._transport.methods import POOL, POOL_BATCH
from poolservice_client.errors import ServerError


class Message:
    """A message, and those of its items that have no outcome yet.

    Args:
        items: the items.
        stacked: whether they are tensors of equal shape and type that are sent as one tensor in one request.

    Attributes:
        method: the method that takes the message.
        items: the items that have no outcome yet.
        errors: the error of each of these items in the last response; empty before there is one.
        small: whether its items are small, so that it may have several.
        content_bytes: the size of the contents of all items that it was created with.
        requests: the number of its requests, which the server counts and limits.
    """

    __slots__ = ("_stacked", "content_bytes", "errors", "items", "method", "requests", "small")

    def __init__(self, items: Sequence[Item], *, stacked: bool = False) -> None:
        self.items = items
        self.errors: Sequence[PoolError] = ()
        self.method = POOL if stacked or len(items) == 1 else POOL_BATCH
        self.requests = 1 if stacked else len(items)
        self.small = items[0].small
        self.content_bytes = sum(item.content_bytes for item in items)
        self._stacked = stacked

    def encode(self) -> bytes:
        """Return the bytes to send for the items that have no outcome yet."""
        template = self.items[0].template
        if self._stacked and template is not None:
            return template.stacked_request([item.content for item in self.items])
        if self.method == POOL:
            return self.items[0].request()
        return encode_batch_request([item.request() for item in self.items])

    def outcomes(self, response: bytes, query: PoolQuery) -> list[Outcome]:
        """Return the outcome of each item.

        Raises:
            ServerError: the response does not fit this message.
        """
        template = self.items[0].template
        if self._stacked and template is not None:
            return [*read_stacked_response(response, query, len(self.items), template.rows)]
        if self.method == POOL:
            return [read_response(response, query, execution=True)]
        return self._batch_outcomes(response, query)

    def _batch_outcomes(self, response: bytes, query: PoolQuery) -> list[Outcome]:
        try:
            responses = decode_batch_response(response)
        except MalformedMessage as error:
            raise ServerError(f"the server's response cannot be read: {error}") from None
        if len(responses) != len(self.items):
            raise ServerError(f"{len(self.items)} items were sent, but {len(responses)} results were received")
        outcomes: list[Outcome] = []
        for status, one in responses:
            if status.code:
                outcomes.append(error_of_status(status))
                continue
            try:
                outcomes.append(read_response(one or b"", query, execution=True))
            except PoolError as error:
                outcomes.append(error)
        return outcomes
