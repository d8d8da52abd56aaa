"""Input files: reading them, recognizing .npy files, and naming the file in errors about it."""

import errno
import io
import os
import re
import stat
import tokenize
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from poolservice.errors import InvalidRequest

#: The largest message of gRPC, in bytes.
MAX_BYTES = 2**31 - 1
_CHUNK_BYTES = 2**20
_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK\x03\x04"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read(path: "str | os.PathLike[str]") -> bytes:
    """Return the contents of the file at `path`.

    Raises:
        OSError: the file cannot be read. For a folder, a device or a URL, the message says what to pass instead.
        InvalidRequest: no file can have this path, or the file is larger than any message.
    """
    try:
        with open(path, "rb") as file:
            return _read_bounded(file, path)
    except InvalidRequest:
        raise
    except ValueError as error:
        # It has a NUL character or a lone surrogate.
        raise InvalidRequest(f"no file can have this name ({error})", field="x") from error
    except IsADirectoryError:
        raise IsADirectoryError(errno.EISDIR, "This is a folder; give the files in it", path_of(path)) from None
    except FileNotFoundError:
        if not is_url(os.fsdecode(path)):
            raise
        message = "A URL is not fetched; download it, and give the file or its bytes"
        raise FileNotFoundError(errno.ENOENT, message, path_of(path)) from None


def _read_bounded(file: BinaryIO, path: "str | os.PathLike[str]") -> bytes:
    status = os.fstat(file.fileno())
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        # Some devices, such as /dev/zero, never end.
        raise OSError(errno.EINVAL, "This is a device; give a file", path_of(path))
    if stat.S_ISREG(status.st_mode):
        check_bytes(status.st_size)
        return file.read()
    # A pipe may never end either.
    chunks, size = [], 0
    while chunk := file.read(_CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        check_bytes(size)
    return b"".join(chunks)


def check_bytes(size: int) -> None:
    """Raise InvalidRequest for an input that is larger than any message, before it is read or copied."""
    if size > MAX_BYTES:
        raise InvalidRequest(f"has {size:,} bytes or more, and no message has more than {MAX_BYTES:,}", field="x")


def is_url(path: str) -> bool:
    """Return True if `path` looks like a URL."""
    return _URL.match(path) is not None


def is_numpy_file(data: bytes) -> bool:
    """Return True if `data` is an .npy file, or an archive such as .npz; such a file is not an image."""
    return data.startswith((_NPY_MAGIC, _ZIP_MAGIC))


def load_array(data: bytes) -> NDArray[Any]:
    """Return the array in an .npy file.

    Raises:
        InvalidRequest: the file is an archive, holds Python objects, or is incomplete.
    """
    if data.startswith(_ZIP_MAGIC):
        raise InvalidRequest(
            "this is an archive, .npz or .zip, which may hold several arrays; give one image, or one array as .npy",
            field="x",
        )
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, EOFError, MemoryError, tokenize.TokenError) as error:
        # numpy raises ValueError for Python objects too, with advice that would be unsafe to follow.
        if "allow_pickle" in str(error):
            raise InvalidRequest(
                "this .npy file holds Python objects, which are never unpickled; save an array of numbers", field="x"
            ) from None
        raise InvalidRequest(f"this .npy file cannot be read ({error}); give a complete one", field="x") from None


def path_of(x: object) -> str | None:
    """Return `x` as text if it is a path; else None."""
    return os.fsdecode(x) if isinstance(x, str | os.PathLike) else None


def _printable_path(path: str) -> str:
    """Return the path as errors show it: characters that no file name can have are escaped, so that it prints."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return ascii(path)
    return path.replace("\0", "\\0")


def with_path(error: InvalidRequest, path: str | None) -> InvalidRequest:
    """Return the error with `path` in its message, if it is about the input and the input was a file."""
    if path is None or error.field.partition(".")[0] != "x":
        return error
    named = InvalidRequest(f"{_printable_path(path)}: {error.reason}", field=error.field)
    named.__cause__ = error.__cause__
    named.request_id = error.request_id
    return named
