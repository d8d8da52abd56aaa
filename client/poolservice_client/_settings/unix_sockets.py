"""Addresses of Unix sockets, unix:PATH and unix-abstract:NAME: their check, and why no server answers at one."""

import os
import stat
from urllib.parse import unquote_to_bytes

from poolservice.errors import InvalidRequest

UNIX = "unix:"
UNIX_ABSTRACT = "unix-abstract:"

# The limit of Linux, without the byte that ends a path or begins an abstract name.
_MAX_PATH_BYTES = 107


def is_unix(address: str) -> bool:
    """Return True if the address is that of a Unix socket."""
    return address.startswith((UNIX, UNIX_ABSTRACT))


def check_unix(address: str) -> None:
    """Check an address for which `is_unix` is True.

    Raises:
        InvalidRequest: no socket can have this address, or gRPC would use another path.
    """
    what, path = ("name", address.removeprefix(UNIX_ABSTRACT)) if _is_abstract(address) else ("path", _path(address))
    if path.startswith("//"):
        raise InvalidRequest(
            f'must be "unix:/path" or "unix:///path", without a host before the path; got {address!r}', field="address"
        )
    for character in "?#":
        if character in path:
            raise InvalidRequest(
                f"has a {character} in the {what} of its Unix socket, where gRPC would end it; write "
                f"%{ord(character):X}; got {address!r}",
                field="address",
            )
    size = len(unquote_to_bytes(path))
    if not 0 < size <= _MAX_PATH_BYTES:
        raise InvalidRequest(
            f"the {what} of a Unix socket has 1 to {_MAX_PATH_BYTES} bytes; got {size} bytes in {address!r}",
            field="address",
        )


def why_no_server(address: str) -> str:
    """Return what is wrong with the socket's path, as a clause of an error message."""
    if _is_abstract(address):
        return f"no process listens on the abstract Unix socket {address.removeprefix(UNIX_ABSTRACT)}"
    path = os.path.abspath(os.fsdecode(unquote_to_bytes(_path(address))))
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return f"the Unix socket {path} does not exist"
    except OSError as error:
        return f"the Unix socket {path} cannot be reached: {error.strerror}"
    if not stat.S_ISSOCK(mode):
        return f"{path} is a {'folder' if stat.S_ISDIR(mode) else 'file'}, not a Unix socket"
    if not os.access(path, os.W_OK):
        return f"this user may not write to the Unix socket {path}"
    return f"no process listens on the Unix socket {path}"


def _is_abstract(address: str) -> bool:
    return address.startswith(UNIX_ABSTRACT)


def _path(address: str) -> str:
    path = address.removeprefix(UNIX)
    return path.removeprefix("//") if path.startswith("///") or path == "//" else path
