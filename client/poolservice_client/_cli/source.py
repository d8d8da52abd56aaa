"""What is to be pooled: a picture or a saved array, from a file or from standard input."""

import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from poolservice_client._cli.mistakes import Failure

_NPY = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"
# Pillow's names of the modes that the service reads a picture in.
_PILLOW_MODES = {"RGB": "RGB", "GRAY": "L", "RGBA": "RGBA"}


class Source(NamedTuple):
    """The input: its name, and either the bytes of an encoded picture or an array."""

    name: str
    payload: bytes | NDArray[Any]

    @property
    def is_picture(self) -> bool:
        """Whether the service will decode it, rather than take it as it is."""
        return isinstance(self.payload, bytes)

    def array(self, color_mode: str) -> NDArray[Any]:
        """What the service pools, to be drawn: the array, or the upright picture as (C, H, W) in [0, 1]."""
        if not isinstance(self.payload, bytes):
            return self.payload
        from PIL import Image, ImageOps

        with Image.open(io.BytesIO(self.payload)) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert(_PILLOW_MODES[color_mode]), dtype=np.float32)
        return planes(pixels) / np.float32(255)


def read(path: str) -> Source:
    """The picture or array at `path`; "-" reads standard input.

    Raises:
        OSError: it cannot be read.
        Failure: it is an .npy file that numpy cannot read, or an archive of several arrays.
    """
    return of_bytes("standard input", sys.stdin.buffer.read()) if path == "-" else of_file(path)


def of_file(path: str) -> Source:
    """The picture or array in the file at `path`; raises as `read` does."""
    return of_bytes(path, Path(path).read_bytes())


def of_bytes(name: str, data: bytes) -> Source:
    """The picture or array that a file's bytes are; raises as `read` does."""
    if data.startswith(_ZIP):
        raise Failure(f"{name} is an archive (.npz or .zip); give one picture, or one array as .npy")
    if not data.startswith(_NPY):
        return Source(name, data)
    try:
        return Source(name, np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise Failure(f"{name} is not a readable .npy file: {error}") from None


def planes(pixels: NDArray[Any]) -> NDArray[Any]:
    """A picture's pixels, (H, W) or (H, W, C), with the channels first: (C, H, W)."""
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
