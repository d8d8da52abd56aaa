"""Errors say what a file is, and contain no characters that a caller chose unescaped."""

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping

import pytest

from poolservice.errors import InvalidRequest
from poolservice_server.foreign_text import quote
from poolservice_server.images import decode

MAX_PIXELS = 1_000_000


def reason_of(file: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode(file, "RGB", max_pixels=MAX_PIXELS)
    assert caught.value.field == "image.data"
    reason = caught.value.reason
    assert all(" " <= character <= "~" for character in reason), reason
    return reason


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        (b"te\nX", r"te\nX"),
        ("\x1b[31mred\u202e", r"\x1b[31mred\u202e"),
        (b"\xc9END", r"\xc9END"),
        ("\ud800", r"\ud800"),
        ("a" * 9, "aaaaa..."),
    ],
)
def test_foreign_text_is_quoted(text: bytes | str, quoted: str) -> None:
    assert quote(text, 5 if text == "a" * 9 else 200) == quoted


@pytest.mark.parametrize("name", [b"a\nb\r", b"\x1b[2J", b"IE\xceD", b"\0\0\0\0", b"A\x7fBC"])
def test_names_of_chunks_are_escaped(files: Mapping[str, bytes], name: bytes) -> None:
    png = files["png"]
    chunk = struct.pack(">L", 0) + name + struct.pack(">L", zlib.crc32(name))
    assert "chunk named" in reason_of(png[:33] + chunk + png[33:])


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (b"\n <!DOCTYPE html><html><head><title>Login\n</title>", "HTML page; a downloader that saves a login"),
        (b"\xef\xbb\xbf<HTML>", "HTML page"),
        ("<html>".encode("utf-16"), "HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "XML document"),
        (b'<?xml version="1.0"?><svg xmlns="a">', "SVG drawing"),
        (b'{"error": "not found"}', "JSON document"),
        (b"photos/cat.jpg", "text; if it is Base64"),
        (b"data:image/png;base64,iVBORw0KGgo=", "data URL"),
        (b"%PDF-1.7\n", "PDF document"),
        (b"PK\x03\x04" + bytes(30), "ZIP archive"),
        (b"\0\0\0\x18ftypheic" + bytes(30), "HEIC image"),
        (b"\0\0\0\x1cftypavif" + bytes(30), "AVIF image"),
        (b"\0\0\0\x20ftypisom" + bytes(30), "video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (bytes(5000), "zeros, as an aborted download leaves"),
        (bytes(range(128, 255)), "not a JPEG, PNG, WEBP, BMP, TIFF or GIF file; send"),
    ],
)
def test_files_that_are_no_images_are_named(file: bytes, expected: str) -> None:
    assert expected in reason_of(file)


def test_a_jpeg_with_a_damaged_header_is_not_called_incomplete(files: Mapping[str, bytes]) -> None:
    jpeg = bytearray(files["jpeg"])
    jpeg[20:22] = b"\xff\xff"
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 2 : frame + 4] = b"\xf0\xf0"
    assert "header is damaged" in reason_of(bytes(jpeg))
    assert "send the complete file" in reason_of(files["jpeg"][: frame + 6])


_DECODE = """
import sys
from poolservice.errors import InvalidRequest
from poolservice_server.images import decode
try:
    decode(sys.stdin.buffer.read(), "RGB", max_pixels=10**6)
except InvalidRequest as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["tiff_tiff_lzw", "tiff_tiff_adobe_deflate", "tiff_fax", "tiff_jpeg", "tiff_zstd"])
def test_libtiff_writes_nothing_to_stderr(files: Mapping[str, bytes], kind: str) -> None:
    damaged = bytearray(files[kind])
    damaged[40 : len(damaged) // 2] = os.urandom(len(damaged) // 2 - 40)
    ended = subprocess.run([sys.executable, "-c", _DECODE], input=bytes(damaged), capture_output=True, check=True)
    assert ended.stderr == b""
