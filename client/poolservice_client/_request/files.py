"""Files that are named by a path: what is read of them, and how an error says which one it was."""

import errno
import io
import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poolservice.errors import InvalidRequest

_NPY = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read(path: "str | os.PathLike[str]") -> bytes:
    """The bytes of the file at `path`.

    Raises:
        OSError: it cannot be read; for a folder or a URL, it says what to do instead.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except IsADirectoryError:
        raise IsADirectoryError(errno.EISDIR, "This is a folder; give the files in it", path_of(path)) from None
    except FileNotFoundError:
        if not is_url(os.fsdecode(path)):
            raise
        said = "A URL is not fetched; download it, and give the file or its bytes"
        raise FileNotFoundError(errno.ENOENT, said, path_of(path)) from None


def is_url(path: str) -> bool:
    """Whether `path` looks like a URL, which names no file here."""
    return _URL.match(path) is not None


def is_array(data: bytes) -> bool:
    """Whether a file's bytes are numpy's: an array (.npy), or an archive of them (.npz), which are no picture."""
    return data.startswith((_NPY, _ZIP))


def array_of(data: bytes) -> NDArray[Any]:
    """The array that an .npy file's bytes hold.

    Raises:
        InvalidRequest: they hold several arrays, Python objects, or not all that their header says.
    """
    if data.startswith(_ZIP):
        raise InvalidRequest(
            "this is an archive, .npz or .zip, which may hold several; give one picture, or one array as .npy",
            field="x",
        )
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, EOFError) as error:
        # numpy has one kind of error for both, and says of the first what would be unsafe to do here.
        if "allow_pickle" in str(error):
            raise InvalidRequest(
                "this .npy file holds Python objects, which are never unpickled; save an array of numbers", field="x"
            ) from None
        raise InvalidRequest(f"this .npy file cannot be read ({error}); give a complete one", field="x") from None


def path_of(x: object) -> str | None:
    """The path that `x` is, as text; None where it is none."""
    return os.fsdecode(x) if isinstance(x, str | os.PathLike) else None


def naming(error: InvalidRequest, path: str | None) -> InvalidRequest:
    """The same error, its sentence naming the file that `x` was read from, where `x` is to blame and was a path."""
    if path is None or error.field.partition(".")[0] != "x":
        return error
    named = InvalidRequest(f"{path}: {error.reason}", field=error.field)
    named.__cause__ = error.__cause__
    return named
