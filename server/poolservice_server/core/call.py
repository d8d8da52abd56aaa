"""One call of a method of the contract."""

from collections.abc import Callable
from typing import NamedTuple

from poolservice_server.core.call_record import CallRecord
from poolservice_server.core.unsent_responses import UnsentResponse


class Call(NamedTuple):
    """One call.

    Attributes:
        message: the encoded request message.
        deadline: when the caller stops waiting, in seconds of time.monotonic; None means never.
        caller: who calls: the name of a token, the identity of a client certificate, or the address of a connection.
        hold: receives the large responses of the call, or of its requests. Release them when the response is sent.
        method: the name of the method.
        record: what observers get when the call has ended; None in tests.
        position: the index of a request in its batch, or its correlation id in its stream; None for the only request of
            a call.
    """

    message: bytes
    deadline: float | None = None
    caller: str = ""
    hold: Callable[[UnsentResponse], None] = UnsentResponse.release
    method: str = ""
    record: CallRecord | None = None
    position: int | None = None

    @property
    def request_id(self) -> str:
        """The id of the call."""
        return "" if self.record is None else self.record.ids.request_id
