"""Items: the inputs of `map`, the bytes that are sent for them, and their outcomes."""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from poolservice.codec.wire import size_of
from poolservice.errors import InvalidRequest, PoolError
from poolservice_client._request.files import path_of, with_path
from poolservice_client._request.payload import ImagePayload, is_slow
from poolservice_client._request.query import PoolQuery
from poolservice_client._request.template import RequestTemplate
from poolservice_client._response.reader import PoolResponse

Outcome: TypeAlias = PoolResponse[Any] | PoolError

#: Larger tensors, in bytes, get a message of their own. Measured with tests/bench/map.py: such a message costs client
#: and server together about as much as copying this many bytes twice.
_SMALL_TENSOR = 256 * 1024
#: The same limit for images. Decoding an image costs more than sending it, so only thumbnails gain from sharing a
#: message. While a message fills, its images take up memory.
_SMALL_IMAGE = 32 * 1024


@dataclass(slots=True, eq=False)
class Item:
    """One input, the bytes that are sent for it, and its outcome.

    Attributes:
        index: its position in the iterable, from 0.
        input: the input; dropped when the item is prepared, unless `keeps_input`.
        keeps_input: whether `input` is yielded with the result.
        prepared: whether `input` has been converted into `content`.
        template: the template of its request; None until it is prepared, or if it cannot be sent.
        small: whether it may be sent in one message with other items.
        content: the bytes to send: the whole request of a large item, the payload of a small one.
        content_bytes: the size of `content` and of the tensors that are sent with it; 0 once the item is settled.
        held_bytes: the other memory that it takes up: its result, and its input if `keeps_input`.
        deadline: when its result is due, in seconds of time.monotonic; known once it is first sent.
        path: the path that the input is; None if it is no path.
        input_error: why it cannot be sent; None if it can. Known once it is prepared.
        outcome: its result or its error, once it is settled.
    """

    index: int
    input: Any
    keeps_input: bool = False
    prepared: bool = False
    template: RequestTemplate | None = None
    small: bool = False
    content: bytes = b""
    content_bytes: int = 0
    held_bytes: int = 0
    deadline: float = math.inf
    path: str | None = None
    input_error: InvalidRequest | None = None
    outcome: Outcome | None = None

    @property
    def is_slow(self) -> bool:
        """True if preparing reads a file or encodes an image, which belongs on another thread."""
        try:
            return is_slow(self.input)
        except Exception:  # noqa: BLE001 - even isinstance may run the caller's code; `prepare` reports what it raises
            return False

    def prepare(self, query: PoolQuery) -> None:
        """Convert the input into the bytes to send. They are a copy, so that the caller may reuse the input.

        If the input cannot be sent, whatever it raises becomes the cause of `input_error`.
        """
        x = self.input
        if not self.keeps_input:
            self.input = None
        self.prepared = True
        try:
            self.path = path_of(x)
            payload = query.payload_of(x)
            self.template = query.template_for(payload)
            input_size = size_of(payload.data)
            size = input_size + self.template.parameter_bytes
            self.small = query.may_share_messages and size <= (
                _SMALL_IMAGE if isinstance(payload, ImagePayload) else _SMALL_TENSOR
            )
            self.content = bytes(payload.data) if self.small else self.template.request(payload.data)
        except InvalidRequest as error:
            self.input_error = error
        except OSError as error:
            self.input_error = InvalidRequest(error.strerror or str(error), field="x")
            self.input_error.__cause__ = error
        except Exception as error:  # noqa: BLE001 - converting an input runs the caller's code, which may raise anything
            self.input_error = InvalidRequest(f"cannot be read: {type(error).__name__}: {error}", field="x")
            self.input_error.__cause__ = error
        else:
            self.content_bytes = size
            self.held_bytes = input_size if self.keeps_input and self.path is None else 0

    def settle(self, outcome: Outcome, result_bytes: int) -> None:
        """Store the outcome, and drop the bytes that were sent."""
        self.outcome = with_path(outcome, self.path) if isinstance(outcome, InvalidRequest) else outcome
        self.held_bytes += result_bytes
        self.content = b""
        self.content_bytes = 0

    @property
    def settled_outcome(self) -> Outcome:
        """The outcome of a settled item."""
        if self.outcome is None:
            raise RuntimeError(f"item {self.index} of a map was yielded before it had an outcome")
        return self.outcome

    def request(self) -> bytes:
        """Return the PoolRequest of this item."""
        return self.template.request(self.content) if self.small and self.template is not None else self.content

    def send_separately(self) -> None:
        """Send this item in a message of its own from now on."""
        self.content = self.request()
        self.small = False


def bytes_of(result: object) -> int:
    """Return the size of a result's arrays in bytes."""
    if isinstance(result, tuple | list):
        return sum(map(bytes_of, result))
    nbytes: int = getattr(result, "nbytes", 0)
    return nbytes
