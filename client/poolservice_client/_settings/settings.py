"""The settings of a client, validated: addresses, credentials, timeouts, retries and size limits."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from poolservice.errors import InvalidRequest
from poolservice.specs.validation import integer
from poolservice_client._settings.addresses import ADDRESS_VARIABLE, parse_addresses
from poolservice_client._settings.credentials import (
    CA_VARIABLE,
    CERTIFICATE_VARIABLE,
    KEY_VARIABLE,
    TLS,
    build_metadata,
    check_token,
    resolve_tls,
)
from poolservice_client._settings.environment import warn_of_misspelt_variables
from poolservice_client._settings.proxy import PROXY_VARIABLE, Proxy, resolve_proxy
from poolservice_client._settings.retry_policy import RetryPolicy
from poolservice_client._suggestions import is_choice, suggestion

DEFAULT_TIMEOUT = 30.0
DEFAULT_MAX_MESSAGE_BYTES = 64 * 2**20
TOKEN_VARIABLE = "POOLSERVICE_TOKEN"  # noqa: S105 - the name of a variable, not a token

_VARIABLES = (ADDRESS_VARIABLE, CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE, TOKEN_VARIABLE, PROXY_VARIABLE)
# gRPC keeps message lengths in 32 bits.
_MAX_MESSAGE_BYTES = 2**31 - 1
# A longer timeout counts as none: much larger values overflow gRPC's clock.
_MAX_TIMEOUT = 366 * 24 * 3600.0
_MAX_CONNECTIONS = 256
# gRPC keeps the interval in milliseconds, in 32 bits.
_MIN_KEEPALIVE, _MAX_KEEPALIVE = 1.0, 2_000_000.0


class ConnectionOptions(TypedDict, total=False):
    """The keyword arguments of both clients that say how to reach a server. PoolClient documents each."""

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
    proxy: str | Literal[False] | None


@dataclass(frozen=True, slots=True)
class Settings:
    """The validated settings of a client. `PoolClient` documents the fields, which are its arguments.

    `metadata` includes the token. `tls` and the token include those of the environment.
    """

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
    proxy: Proxy | None

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
        proxy: str | Literal[False] | None = None,
    ) -> "Settings":
        """Validate the arguments of a client's constructor and apply the environment variables.

        Raises:
            InvalidRequest: an argument is invalid.
        """
        if not 1 <= integer("max_message_bytes", max_message_bytes) <= _MAX_MESSAGE_BYTES:
            raise InvalidRequest(
                f"must be a number of bytes from 1 to {_MAX_MESSAGE_BYTES}; got {max_message_bytes!r}",
                field="max_message_bytes",
            )
        if connections is not None and not 1 <= integer("connections", connections) <= _MAX_CONNECTIONS:
            raise InvalidRequest(
                f"must be from 1 to {_MAX_CONNECTIONS} per address, or None for one per worker; got {connections!r}",
                field="connections",
            )
        if compression is not None and not is_choice(compression, ("gzip",)):
            raise InvalidRequest(
                f'must be "gzip" or None; got {compression!r}{suggestion(compression, ("gzip",))}', field="compression"
            )
        if retries is not None and not isinstance(retries, RetryPolicy):
            raise InvalidRequest(f"must be a RetryPolicy, or None for no retries; got {retries!r}", field="retries")
        if keepalive is not None and not _MIN_KEEPALIVE <= _check_seconds(keepalive, "keepalive") <= _MAX_KEEPALIVE:
            raise InvalidRequest(
                f"must be from {_MIN_KEEPALIVE:g} to {_MAX_KEEPALIVE:,.0f} s; got {keepalive!r}", field="keepalive"
            )
        if not isinstance(interceptors, Sequence):
            raise InvalidRequest(f"must be a list of gRPC's interceptors; got {interceptors!r}", field="interceptors")
        warn_of_misspelt_variables(_VARIABLES)
        addresses = parse_addresses(address)
        resolved_tls = resolve_tls(tls)
        resolved_proxy = resolve_proxy(proxy, addresses)
        token = token or os.environ.get(TOKEN_VARIABLE) or None
        check_token(token, addresses, is_encrypted=resolved_tls is not None)
        pairs = build_metadata(metadata, token)
        if resolved_proxy is not None and resolved_tls is None and any(key == "authorization" for key, _ in pairs):
            raise InvalidRequest(
                f"is not sent without TLS through {resolved_proxy}, which could read it; pass tls=",
                field="token",
            )
        return cls(
            addresses,
            _check_seconds(timeout, "timeout"),
            max_message_bytes,
            connections,
            retries,
            None if hedge_after is None else _check_seconds(hedge_after, "hedge_after"),
            resolved_tls,
            compression,
            pairs,
            tuple(interceptors),
            keepalive,
            wait_for_ready if wait_for_ready in (None, 0) else _check_seconds(wait_for_ready, "wait_for_ready"),
            resolved_proxy,
        )

    @property
    def address(self) -> str:
        """The addresses as one text, for messages."""
        return ", ".join(self.addresses)

    def call_timeout(self, timeout: float | None) -> float | None:
        """Return the seconds that a call may take: `timeout`, or the client's if None; None if there is no limit."""
        seconds = self.timeout if timeout is None else _check_seconds(timeout, "timeout")
        return seconds if seconds < _MAX_TIMEOUT else None


def remaining(seconds: float | None, started: float) -> float | None:
    """Return the part of a timeout that is left of a call that started at a time of time.monotonic."""
    # The transport takes no timeout of 0: its error then says that the timeout has passed.
    return None if seconds is None else max(seconds - (time.monotonic() - started), 1e-3)


def _check_seconds(value: float, field: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not seconds > 0:
        raise InvalidRequest(
            f"must be a number of seconds above 0 (math.inf waits for ever); got {value!r}", field=field
        )
    return seconds
