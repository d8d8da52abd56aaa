"""Reading one input: an image or a saved array, from a file or from standard input."""

import io
import os
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from poolservice.errors import InvalidRequest
from poolservice_client._cli.exit_errors import CommandError, UsageError
from poolservice_client._request import files

# Pillow's names of the color modes that the service decodes to.
_PILLOW_MODES = {"RGB": "RGB", "GRAY": "L", "RGBA": "RGBA"}


class InputData(NamedTuple):
    """One input.

    Attributes:
        name: the path as the user wrote it, or "standard input".
        payload: the bytes of an encoded image, or an array.
    """

    name: str
    payload: bytes | NDArray[Any]

    @property
    def is_image(self) -> bool:
        """True if the service has to decode the payload."""
        return isinstance(self.payload, bytes)

    def to_array(self, color_mode: str) -> NDArray[Any]:
        """Return what the service pools: the array itself, or the upright image as float32 (C, H, W) in [0, 1]."""
        if not isinstance(self.payload, bytes):
            return self.payload
        from PIL import Image, ImageOps

        with Image.open(io.BytesIO(self.payload)) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert(_PILLOW_MODES[color_mode]), dtype=np.float32)
        return channels_first(pixels) / np.float32(255)


def read(path: str) -> InputData:
    """Read the image or array at `path`; "-" is standard input.

    Raises:
        UsageError: the path is a folder or a URL.
        OSError: the file cannot be read.
        CommandError: the file is an .npy file that numpy cannot read, or an archive of several arrays.
    """
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; give one file, or use poolservice map for many")
    if files.is_url(path) and not os.path.exists(path):
        raise UsageError(
            f"{path} is a URL, which is not fetched; download it and give the file, or - for standard input"
        )
    name = "standard input" if path == "-" else path
    try:
        return InputData(name, parse(sys.stdin.buffer.read() if path == "-" else files.read(path)))
    except InvalidRequest as error:
        raise CommandError(f"{name}: {error.reason}") from None


def parse(data: bytes) -> bytes | NDArray[Any]:
    """Return the array of an .npy file's bytes; other bytes are an encoded image and are returned unchanged.

    Raises:
        InvalidRequest: the bytes are an .npy file that numpy cannot read, or an archive of several arrays.
    """
    return files.load_array(data) if files.is_numpy_file(data) else data


def channels_first(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return an image's pixels, (H, W) or (H, W, C), as (C, H, W)."""
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
