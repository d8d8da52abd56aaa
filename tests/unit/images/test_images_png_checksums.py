"""A PNG whose compressed pixels are damaged or incomplete is rejected, whatever its last row looks like."""

import struct
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO

import pytest
from PIL import Image

from poolservice.errors import InvalidRequest
from poolservice_server.images import decode

MAX_PIXELS = 1_000_000
WritePng = Callable[..., bytes]


def with_pixels(png: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return the file with its compressed pixels changed, and with the right checksum of the chunk."""
    start = png.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">L", png, start)
    content = b"IDAT" + change(png[start + 8 : start + 8 + length])
    chunk = struct.pack(">L", len(content) - 4) + content + struct.pack(">L", zlib.crc32(content))
    return png[:start] + chunk + png[start + 12 + length :]


def flip_checksum(data: bytes, bit: int) -> bytes:
    return data[:-4] + (int.from_bytes(data[-4:], "big") ^ 1 << bit).to_bytes(4, "big")


@pytest.mark.parametrize("kind", ["png", "png_palette", "png_1_bit", "png_gray_alpha", "png_alpha", "png_16_bit"])
def test_a_wrong_checksum_of_the_compressed_pixels_is_rejected(files: Mapping[str, bytes], kind: str) -> None:
    for bit in range(32):
        file = with_pixels(files[kind], lambda data, bit=bit: flip_checksum(data, bit))  # type: ignore[misc]
        with pytest.raises(InvalidRequest, match="broken data stream"):
            decode(file, "RGB", max_pixels=MAX_PIXELS)


def test_a_wrong_checksum_of_a_large_image_that_is_decoded_in_pieces_is_rejected() -> None:
    file = BytesIO()
    Image.effect_noise((2600, 2600), 60).convert("RGB").save(file, "PNG", compress_level=1)
    damaged = with_pixels(file.getvalue(), lambda data: flip_checksum(data, 3))
    with pytest.raises(InvalidRequest, match=r"(broken|unrecognized) data stream"):
        decode(damaged, "RGB", max_pixels=10_000_000)


@pytest.mark.parametrize("color", [0x00, 0xA5, 0xFF])
def test_missing_rows_are_found_in_any_color(write_png: WritePng, color: int) -> None:
    # 0xA5 is the value that marks the last row.
    row = b"\0" + bytes([color]) * 60
    complete = write_png(20, 30, 8, 2, zlib.compress(row * 30))
    assert (decode(complete, "RGB", max_pixels=MAX_PIXELS) == color).all()
    for nbytes in (0, 61, 61 * 29, 61 * 30 - 1):
        with pytest.raises(InvalidRequest, match="truncated"):
            decode(write_png(20, 30, 8, 2, zlib.compress((row * 30)[:nbytes])), "RGB", max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("kind", ["png", "png_palette", "png_1_bit", "png_gray_alpha", "png_alpha", "png_16_bit"])
@pytest.mark.parametrize("rest", ["intact", "wrong checksum", "damaged", "no checksum"])
def test_what_follows_the_last_pixel_is_not_needed_as_in_pillow(
    files: Mapping[str, bytes], kind: str, rest: str
) -> None:
    def longer(data: bytes) -> bytes:
        if rest == "no checksum":
            return data[:-4]
        compressor = zlib.compressobj()
        data = compressor.compress(zlib.decompress(data) + bytes(50_000))
        if rest == "damaged":
            # A block of deflate's reserved type.
            return data + compressor.flush(zlib.Z_FULL_FLUSH) + b"\x07"
        data += compressor.flush()
        return flip_checksum(data, 3) if rest == "wrong checksum" else data

    file = with_pixels(files[kind], longer)
    Image.open(BytesIO(file)).load()
    expected = decode(files[kind], "RGBA", max_pixels=MAX_PIXELS)
    assert (decode(file, "RGBA", max_pixels=MAX_PIXELS) == expected).all()


def test_ancillary_chunks_before_the_pixels_are_verified(write_png: WritePng) -> None:
    pixels = zlib.compress(bytes(5 * 22))
    file = write_png(7, 5, 8, 2, pixels, before={b"tEXt": b"Comment\0hello"})
    assert decode(file, "RGB", max_pixels=MAX_PIXELS).shape == (3, 5, 7)
    with pytest.raises(InvalidRequest, match="tEXt chunk does not match its checksum"):
        decode(file.replace(b"hello", b"hallo"), "RGB", max_pixels=MAX_PIXELS)
    file = write_png(7, 5, 8, 2, pixels, before={b"zTXt": b"Comment\0\x07hello"})
    with pytest.raises(InvalidRequest, match=r"zTXt chunk is compressed in an unknown way \(7\)"):
        decode(file, "RGB", max_pixels=MAX_PIXELS)
