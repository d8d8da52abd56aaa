"""One call of a method of the contract."""

from collections.abc import Callable
from typing import NamedTuple

from poolservice_server.core.unsent_responses import UnsentResponse


class Call(NamedTuple):
    """One call.

    Attributes:
        message: the encoded request message.
        deadline: when the caller stops waiting, in seconds of time.monotonic; None means never.
        caller: who calls: the name of a token, the identity of a client certificate, or the address of a connection.
        hold: receives the large responses of the call, or of its requests. Release them when the response is sent.
        method: the name of the method.
    """

    message: bytes
    deadline: float | None = None
    caller: str = ""
    hold: Callable[[UnsentResponse], None] = UnsentResponse.release
    method: str = ""
