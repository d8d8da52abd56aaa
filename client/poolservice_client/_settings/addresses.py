"""Where servers are: the forms of an address."""

import ipaddress
import os
from collections.abc import Sequence

from poolservice.errors import InvalidRequest

DEFAULT_ADDRESS = "localhost:50051"
#: One address, or several with commas between them.
ADDRESS_VARIABLE = "POOLSERVICE_ADDRESS"

_LARGEST_PORT = 65535
_WEB_SCHEMES = ("http", "https", "grpc")


def addresses_of(address: str | Sequence[str] | None) -> tuple[str, ...]:
    """The addresses that a client was given, or else the environment has.

    Raises:
        InvalidRequest: one of them is none.
    """
    if address is None:
        address = os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    if not isinstance(address, str | Sequence):
        raise InvalidRequest(f'must be "host:port", or several of them; got {address!r}', field="address")
    several = [one.strip() for one in address.split(",")] if isinstance(address, str) else list(address)
    if not several:
        raise InvalidRequest("must be an address, or several; got none", field="address")
    for one in several:
        _check(one)
    # In their order, each once.
    return tuple(dict.fromkeys(several))


def is_balanced(address: str) -> bool:
    """Whether gRPC itself shares the calls out among all that the address stands for."""
    return address.startswith("dns:")


def is_local(address: str) -> bool:
    """Whether what is sent there never leaves this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition("/")[2].rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(address: str) -> None:
    if not isinstance(address, str):
        raise InvalidRequest(f'must be "host:port", or several of them; got {address!r}', field="address")
    if "://" in address and address.split("://")[0] in _WEB_SCHEMES:
        raise InvalidRequest(f'is "host:port" without a scheme; got {address!r}', field="address")
    port = address.rpartition(":")[2]
    # gRPC would take the rest of such a port by 65536, and reach another server.
    if port.isdecimal() and not address.startswith(("unix:", "unix-abstract:")) and not 0 < int(port) <= _LARGEST_PORT:
        raise InvalidRequest(f"has a port from 1 to {_LARGEST_PORT}; got {address!r}", field="address")
    if not address or ":" not in address:
        raise InvalidRequest(f'must be "host:port", such as "{DEFAULT_ADDRESS}"; got {address!r}', field="address")
