"""Server addresses: parsing and validation."""

import ipaddress
import os
from collections.abc import Sequence

from poolservice.errors import InvalidRequest
from poolservice_client._settings.unix_sockets import check_unix, is_unix

DEFAULT_ADDRESS = "localhost:50051"
#: The environment variable that holds the default address, or several addresses separated by commas.
ADDRESS_VARIABLE = "POOLSERVICE_ADDRESS"

_MAX_PORT = 65535
_WEB_SCHEMES = ("http", "https", "grpc")


def parse_addresses(address: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the addresses in `address`, or in the environment if it is None, without duplicates.

    Raises:
        InvalidRequest: an address is malformed, or there is none.
    """
    if address is None:
        address = os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    if not isinstance(address, str | Sequence):
        raise InvalidRequest(f'must be "host:port", or a list of them; got {address!r}', field="address")
    addresses = [part.strip() for part in address.split(",")] if isinstance(address, str) else list(address)
    if not addresses:
        raise InvalidRequest("must be at least one address; got an empty list", field="address")
    for one in addresses:
        _check(one)
    # A dict removes duplicates and keeps the order.
    return tuple(dict.fromkeys(addresses))


def is_balanced_by_grpc(address: str) -> bool:
    """Return True if gRPC resolves the name and balances the calls over all resolved machines."""
    return address.startswith("dns:")


def is_local(address: str) -> bool:
    """Return True if calls to the address never leave this machine: a Unix socket or a loopback address."""
    if is_unix(address):
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
        raise InvalidRequest(f'must be "host:port", or a list of them; got {address!r}', field="address")
    try:
        address.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f'must be "host:port" in UTF-8; got {address!r}', field="address") from None
    if not address.isprintable():
        raise InvalidRequest(f"must have printable characters only; got {address!r}", field="address")
    if is_unix(address):
        check_unix(address)
        return
    if "://" in address and address.split("://")[0] in _WEB_SCHEMES:
        raise InvalidRequest(f'must be "host:port" without a scheme; got {address!r}', field="address")
    port = address.rpartition(":")[2]
    # gRPC takes larger ports modulo 65536 and would connect to another server.
    if port.isdecimal() and not 0 < int(port) <= _MAX_PORT:
        raise InvalidRequest(f"must have a port from 1 to {_MAX_PORT}; got {address!r}", field="address")
    if not address or ":" not in address:
        raise InvalidRequest(f'must be "host:port", such as "{DEFAULT_ADDRESS}"; got {address!r}', field="address")
