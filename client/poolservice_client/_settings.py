"""What a client is told once: where the server is, how long to wait, how large a message may be."""

import math
import os
from dataclasses import dataclass

from poolservice.errors import InvalidRequest
from poolservice.specs.base import integer

DEFAULT_ADDRESS = "localhost:50051"
DEFAULT_TIMEOUT = 30.0
DEFAULT_MAX_MESSAGE_BYTES = 64 * 2**20
ADDRESS_VARIABLE = "POOLSERVICE_ADDRESS"

# gRPC keeps message lengths in 32 bits.
_LARGEST_MESSAGE = 2**31 - 1
# A deadline beyond a year is none; far beyond it, gRPC's clock overflows.
_FOREVER = 366 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """A client's settings, checked."""

    address: str
    timeout: float
    max_message_bytes: int

    @classmethod
    def of(cls, address: str | None, timeout: float, max_message_bytes: int) -> "Settings":
        """The settings for what a client's constructor was given.

        Raises:
            InvalidRequest: one of them is out of range.
        """
        if not 1 <= integer("max_message_bytes", max_message_bytes) <= _LARGEST_MESSAGE:
            raise InvalidRequest(
                f"must be a number of bytes from 1 to {_LARGEST_MESSAGE}; got {max_message_bytes!r}",
                field="max_message_bytes",
            )
        if address is None:
            address = os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
        return cls(_address(address), _seconds(timeout), max_message_bytes)

    def deadline(self, timeout: float | None) -> float | None:
        """The seconds that a call may take: its own timeout or the client's; None for ever."""
        seconds = self.timeout if timeout is None else _seconds(timeout)
        return seconds if seconds < _FOREVER else None


def _address(address: str) -> str:
    if "://" in address and address.split("://")[0] in ("http", "https", "grpc"):
        raise InvalidRequest(f'is "host:port" without a scheme; got {address!r}', field="address")
    if not address or (":" not in address):
        raise InvalidRequest(f'must be "host:port", such as "{DEFAULT_ADDRESS}"; got {address!r}', field="address")
    return address


def _seconds(timeout: float) -> float:
    try:
        seconds = float(timeout)
    except (TypeError, ValueError):
        seconds = math.nan
    if not seconds > 0:
        raise InvalidRequest(
            f"must be a number of seconds above 0 (math.inf waits for ever); got {timeout!r}", field="timeout"
        )
    return seconds
