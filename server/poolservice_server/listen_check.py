"""Checks that the server can listen on its addresses, before it imports torch, which takes seconds."""

import errno
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from poolservice_server.settings import Settings, SettingsError

#: The end of the error about a port in use.
IN_USE_ADVICE = "; stop the process that listens there (`poolservice-server doctor` names it), or choose another port"


def check(settings: Settings) -> None:
    """Check the addresses in the settings.

    Raises:
        SettingsError: an address is in use, is not one of this machine, or is not permitted. The message has the
            operating system's reason.
    """
    for name in ("address", "metrics_address"):
        address = getattr(settings, name)
        if address and address.startswith("unix:"):
            _check_unix_socket(address)
        elif address:
            with reserve(address, f"--{name.replace('_', '-')}"):
                pass


def _check_unix_socket(address: str) -> None:
    """Check that nobody listens on a Unix socket. gRPC would take the path away from the process that does."""
    path = Path(address.removeprefix("unix:").removeprefix("//"))
    problem = None
    if not path.parent.is_dir():
        problem = f"there is no folder {path.parent}"
    elif path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        problem = "the path is not that of a socket; remove it or choose another one"
    elif _is_in_use(path):
        problem = "another process listens on it; stop it or choose another path"
    if problem is not None:
        raise SettingsError(f"cannot listen on {address} (--address): {problem}")


def _is_in_use(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A process that accepts nothing may have a full queue, in which a blocking connection would wait.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


@contextmanager
def reserve(address: str, flag: str = "--address", *, shared: bool = False) -> Iterator[str]:
    """Bind HOST:PORT until the end of the block, without accepting connections; yield HOST:PORT with the actual port.

    Args:
        address: HOST:PORT, with port 0 for a free port.
        flag: the flag that the error names.
        shared: True if other sockets may bind the same port (SO_REUSEPORT).

    Raises:
        SettingsError: the address cannot be bound.
    """
    host, _, port = address.rpartition(":")
    try:
        family, _, _, _, socket_address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot_listen(address, flag, error) from None
    with bound:
        if int(port):
            # As gRPC does: without this option, the closed connections of a server that has just ended block the port.
            # For port 0 it stays off, because other programs could then bind the chosen port until this one listens.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            bound.bind(socket_address)
        except OSError as error:
            raise _cannot_listen(address, flag, error) from None
        yield f"{host}:{bound.getsockname()[1]}"


def _cannot_listen(address: str, flag: str, error: OSError) -> SettingsError:
    advice = IN_USE_ADVICE if error.errno == errno.EADDRINUSE else ""
    return SettingsError(f"cannot listen on {address} ({flag}): {error.strerror}{advice}")
