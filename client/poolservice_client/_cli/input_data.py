"""Reading one input: an image or a saved array, from a file or from standard input."""

import io
import os
import sys
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from poolservice.errors import InvalidRequest
from poolservice_client._cli.exit_errors import CommandError, UsageError, naming
from poolservice_client._request import files

_CHUNK_BYTES = 2**24
# The header of an .npy file is smaller.
_FILE_HEADER_BYTES = 2**17
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


def read(path: str, max_message_bytes: int) -> InputData:
    """Read the image or array at `path`; "-" is standard input. At most about the size of a message is read.

    Raises:
        UsageError: the path is a folder or a URL.
        OSError: the file cannot be read.
        CommandError: the file is an .npy file that numpy cannot read, an archive of several arrays, or too large.
    """
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; give one file, or use poolservice map for many")
    if files.is_url(path) and not os.path.exists(path):
        raise UsageError(
            f"{path} is a URL, which is not fetched; download it and give the file, or - for standard input"
        )
    name = "standard input" if path == "-" else path
    try:
        limit = max_file_bytes(max_message_bytes)
        if path == "-":
            with naming(name):
                return InputData(name, parse(_read_all(sys.stdin.buffer, limit)))
        return InputData(name, parse(read_file(path, limit)))
    except InvalidRequest as error:
        raise CommandError(f"{name}: {error.reason}") from None


def max_file_bytes(max_message_bytes: int) -> int:
    """Return the size above which a file is not read, because it cannot fit in a message.

    The client reports a slightly smaller file that does not fit either, and an invalid `max_message_bytes`.
    """
    return max(max_message_bytes, 2**20) + _FILE_HEADER_BYTES


def read_file(path: str, limit: int) -> bytes:
    """Return the contents of the file at `path`, of which no more than `limit` bytes are read.

    Raises:
        OSError: the file cannot be read.
        InvalidRequest: the file has more bytes.
    """
    try:
        # Unbuffered, because a buffer would read ahead from a pipe or a device.
        with naming(path), open(path, "rb", buffering=0) as file:
            return _read_all(file, limit)
    except (IsADirectoryError, FileNotFoundError):
        # The SDK's error says what to give instead of a folder or a URL.
        return files.read(path)


def _read_all(file: "io.RawIOBase | BinaryIO", limit: int) -> bytes:
    chunks, size = [], 0
    while size <= limit and (chunk := file.read(min(_CHUNK_BYTES, limit + 1 - size))):
        chunks.append(chunk)
        size += len(chunk)
    if size > limit:
        raise InvalidRequest(
            f"has more than {limit:,} bytes, too many for a message; raise --max-message-bytes, and the server's flag "
            "of the same name",
            field="x",
        )
    return b"".join(chunks)


def parse(data: bytes) -> bytes | NDArray[Any]:
    """Return the array of an .npy file's bytes; other bytes are an encoded image and are returned unchanged.

    Raises:
        InvalidRequest: the bytes are an .npy file that numpy cannot read, or an archive of several arrays.
    """
    return files.load_array(data) if files.is_numpy_file(data) else data


def channels_first(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return an image's pixels, (H, W), (H, W, C) or (N, H, W, C), with its channels before its height."""
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, -3)
