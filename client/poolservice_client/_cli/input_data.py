"""What is to be pooled: a picture or a saved array, from a file or from standard input."""

import io
import os
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from poolservice.errors import InvalidRequest
from poolservice_client._cli.errors import Failure, Usage
from poolservice_client._request import files

# Pillow's names of the modes that the service reads a picture in.
_PILLOW_MODES = {"RGB": "RGB", "GRAY": "L", "RGBA": "RGBA"}


class Source(NamedTuple):
    """The input: its name, and either the bytes of an encoded picture or an array."""

    name: str
    payload: bytes | NDArray[Any]

    @property
    def is_image(self) -> bool:
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
        Usage: it is a folder, or a URL.
        OSError: it cannot be read.
        Failure: it is an .npy file that numpy cannot read, or an archive of several arrays.
    """
    if os.path.isdir(path):
        raise Usage(f"{path} is a folder; give one file, or many to poolservice map")
    if files.is_url(path) and not os.path.exists(path):
        raise Usage(f"{path} is a URL, which is not fetched; download it, and give the file, or - for standard input")
    name = "standard input" if path == "-" else path
    try:
        return Source(name, of_bytes(sys.stdin.buffer.read() if path == "-" else files.read(path)))
    except InvalidRequest as error:
        raise Failure(f"{name}: {error.reason}") from None


def of_bytes(data: bytes) -> bytes | NDArray[Any]:
    """The array that a file's bytes hold, or the bytes themselves, which are a picture's.

    Raises:
        InvalidRequest: they are an .npy file that numpy cannot read, or an archive of several arrays.
    """
    return files.load_array(data) if files.is_numpy_file(data) else data


def planes(pixels: NDArray[Any]) -> NDArray[Any]:
    """A picture's pixels, (H, W) or (H, W, C), with the channels first: (C, H, W)."""
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
