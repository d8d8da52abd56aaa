"""Whether an address can be listened on, found out before torch is imported, which takes seconds."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from poolservice_server.settings import Settings, SettingsError


def check(settings: Settings) -> None:
    """Refuse the addresses that cannot be listened on, with the system's reason.

    Raises:
        SettingsError: the address, or that of the metrics, is taken, is not this machine's, or is not allowed.
    """
    for name in ("address", "metrics_address"):
        address = getattr(settings, name)
        if address and not address.startswith("unix:"):
            with listening(address, f"--{name.replace('_', '-')}"):
                pass


@contextmanager
def listening(address: str, flag: str = "--address", *, shared: bool = False) -> Iterator[str]:
    """Hold HOST:PORT, without taking connections, until the end of the block; gives it with its port.

    Args:
        address: port 0 for a free one.
        flag: what to name where it cannot be had.
        shared: whether others may hold it too.

    Raises:
        SettingsError: it cannot be had.
    """
    host, _, port = address.rpartition(":")
    try:
        family, _, _, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        holder = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _not_here(address, flag, error) from None
    with holder:
        # As gRPC does: what a server that just ended leaves behind does not count.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind(where)
        except OSError as error:
            raise _not_here(address, flag, error) from None
        yield f"{host}:{holder.getsockname()[1]}"


def _not_here(address: str, flag: str, error: OSError) -> SettingsError:
    return SettingsError(f"cannot listen at {address} ({flag}): {error.strerror}")
