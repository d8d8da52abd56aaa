"""What a client is told once: where the server is, how it is reached, how long to wait, how large a message may be."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from poolservice.errors import InvalidRequest
from poolservice.specs.validation import integer
from poolservice_client._settings.addresses import ADDRESS_VARIABLE, DEFAULT_ADDRESS, addresses_of
from poolservice_client._settings.credentials import TLS, check_token, metadata_of, tls_of
from poolservice_client._transport.retry import RetryPolicy

__all__ = [
    "ADDRESS_VARIABLE",
    "DEFAULT_ADDRESS",
    "DEFAULT_MAX_MESSAGE_BYTES",
    "DEFAULT_TIMEOUT",
    "Connecting",
    "Settings",
]

DEFAULT_TIMEOUT = 30.0
DEFAULT_MAX_MESSAGE_BYTES = 64 * 2**20
TOKEN_VARIABLE = "POOLSERVICE_TOKEN"  # noqa: S105 - a variable's name

# gRPC keeps message lengths in 32 bits.
_LARGEST_MESSAGE = 2**31 - 1
# A deadline beyond a year is none; far beyond it, gRPC's clock overflows.
_FOREVER = 366 * 24 * 3600.0
_MOST_CONNECTIONS = 256
_LEAST_KEEPALIVE = 1.0


class Connecting(TypedDict, total=False):
    """How a client reaches its servers; PoolClient says what each is."""

    connections: int | None
    retries: RetryPolicy | None
    hedge_after: float | None
    tls: TLS | bool | None
    token: str | None
    compression: Literal["gzip"] | None
    metadata: Sequence[tuple[str, str | bytes]]
    interceptors: Sequence[Any]
    keepalive: float | None
    wait_for_ready: float | None


@dataclass(frozen=True, slots=True)
class Settings:
    """A client's settings, checked."""

    addresses: tuple[str, ...]
    timeout: float
    max_message_bytes: int
    connections: int | None
    retries: RetryPolicy | None
    hedge_after: float | None
    tls: TLS | None
    compression: Literal["gzip"] | None
    metadata: tuple[tuple[str, str | bytes], ...]
    interceptors: tuple[Any, ...]
    keepalive: float | None
    wait_for_ready: float | None

    @classmethod
    def of(
        cls,
        address: str | Sequence[str] | None,
        timeout: float,
        max_message_bytes: int,
        *,
        connections: int | None = None,
        retries: RetryPolicy | None = RetryPolicy(),  # noqa: B008 - frozen
        hedge_after: float | None = None,
        tls: TLS | bool | None = None,
        token: str | None = None,
        compression: Literal["gzip"] | None = None,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        interceptors: Sequence[Any] = (),
        keepalive: float | None = None,
        wait_for_ready: float | None = None,
    ) -> "Settings":
        """The settings for what a client's constructor was given.

        Raises:
            InvalidRequest: one of them is out of range.
        """
        if not 1 <= integer("max_message_bytes", max_message_bytes) <= _LARGEST_MESSAGE:
            raise InvalidRequest(
                f"must be a number of bytes from 1 to {_LARGEST_MESSAGE}; got {max_message_bytes!r}",
                field="max_message_bytes",
            )
        if connections is not None and not 1 <= integer("connections", connections) <= _MOST_CONNECTIONS:
            raise InvalidRequest(
                f"must be from 1 to {_MOST_CONNECTIONS} to each address, or None for one to each of its workers; "
                f"got {connections!r}",
                field="connections",
            )
        if compression not in (None, "gzip"):
            raise InvalidRequest(f'must be "gzip" or None; got {compression!r}', field="compression")
        if retries is not None and not isinstance(retries, RetryPolicy):
            raise InvalidRequest(f"must be a RetryPolicy, or None for no retries; got {retries!r}", field="retries")
        if keepalive is not None and _seconds(keepalive, "keepalive") < _LEAST_KEEPALIVE:
            raise InvalidRequest(f"must be at least {_LEAST_KEEPALIVE:g} s; got {keepalive!r}", field="keepalive")
        addresses = addresses_of(address)
        secure = tls_of(tls)
        token = token or os.environ.get(TOKEN_VARIABLE) or None
        check_token(token, addresses, secure=secure is not None)
        return cls(
            addresses,
            _seconds(timeout, "timeout"),
            max_message_bytes,
            connections,
            retries,
            None if hedge_after is None else _seconds(hedge_after, "hedge_after"),
            secure,
            compression,
            metadata_of(metadata, token),
            tuple(interceptors),
            keepalive,
            wait_for_ready if wait_for_ready in (None, 0) else _seconds(wait_for_ready, "wait_for_ready"),
        )

    @property
    def address(self) -> str:
        """Where the servers are, for people."""
        return ", ".join(self.addresses)

    def deadline(self, timeout: float | None) -> float | None:
        """The seconds that a call may take: its own timeout or the client's; None for ever."""
        seconds = self.timeout if timeout is None else _seconds(timeout, "timeout")
        return seconds if seconds < _FOREVER else None


def _seconds(value: float, field: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not seconds > 0:
        raise InvalidRequest(
            f"must be a number of seconds above 0 (math.inf waits for ever); got {value!r}", field=field
        )
    return seconds
