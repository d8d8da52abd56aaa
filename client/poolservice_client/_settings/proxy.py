"""The HTTP proxy that a client connects through, if its settings name one.

By default, gRPC follows http_proxy, https_proxy and grpc_proxy in the environment, even for loopback addresses. A proxy
would then see data that the caller expects to stay on this machine. Besides, a pooling service usually runs in the
caller's own network, which the proxy does not reach. So a client ignores these variables.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from poolservice.errors import InvalidRequest
from poolservice_client._settings.addresses import is_local

PROXY_VARIABLE = "POOLSERVICE_PROXY"
# The variables that gRPC reads by default. They have no effect on this client.
_IGNORED_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. As text it is its address, without the credentials.

    Attributes:
        url: the URL for gRPC, with the credentials if there are any.
        address: "host:port".
    """

    url: str = field(repr=False)
    address: str

    def __str__(self) -> str:
        return f"the proxy {self.address}"


def resolve_proxy(proxy: str | Literal[False] | None, addresses: Iterable[str]) -> Proxy | None:
    """Return the proxy of the argument or else of the environment; None if there is none, or no address needs it.

    Raises:
        InvalidRequest: the URL is malformed, or the proxy has another scheme than http.
    """
    if proxy is None:
        proxy = os.environ.get(PROXY_VARIABLE) or False
    if proxy is False:
        return None
    try:
        parts = urlsplit(proxy)
        host, port = parts.hostname, parts.port
    except (ValueError, TypeError, AttributeError):
        host = port = None
    if not host or port is None or parts.scheme != "http":
        # The value is not shown, because it may hold a password.
        raise InvalidRequest('must be "http://host:port" or "http://user:password@host:port"', field="proxy")
    if not any(map(uses_proxy, addresses)):
        return None
    return Proxy(proxy, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def uses_proxy(address: str) -> bool:
    """Return True if a proxy applies to the address: it is on another machine."""
    return not is_local(address)


def ignored_variable() -> str | None:
    """Return the first environment variable that names a proxy and that this client ignores; None if there is none."""
    return next((name for name in _IGNORED_VARIABLES if os.environ.get(name)), None)
