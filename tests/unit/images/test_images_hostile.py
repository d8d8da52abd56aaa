"""Inconsistent, truncated and malicious files are rejected with a clear error, before they cost memory."""

import re
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from poolservice.errors import InvalidRequest
from poolservice_server.images import decode, read_header

MAX_PIXELS = 50_000_000
Save = Callable[..., bytes]
WritePng = Callable[..., bytes]


def assert_rejected(file: bytes, message: str) -> None:
    """Fail unless `file` is rejected with an error that matches `message`."""
    with pytest.raises(InvalidRequest) as caught:
        decode(file, "RGB", max_pixels=MAX_PIXELS)
    assert caught.value.field == "image.data"
    assert re.search(message, caught.value.reason), caught.value.reason
    assert "0x" not in caught.value.reason
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"\0",
        b"hello, world",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"SIMPLE  =                    T" + b" " * 3000,  # FITS
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"8BPS\0\1" + b"\0" * 100,  # PSD
        b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + b"\0" * 100,  # ICO
        b"P6 1 1 255 abc",  # PPM
        b"\0\0\0\x1cftypavif" + b"\0" * 100,
        b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 100,  # JPEG 2000
        b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 100,
    ],
)
def test_other_formats_are_rejected(file: bytes) -> None:
    assert_rejected(file, "JPEG, PNG, WEBP, BMP, TIFF or GIF file")


def test_errors_state_the_size_of_the_image_and_the_limit(files: Mapping[str, bytes]) -> None:
    for file in files.values():
        assert read_header(file, max_pixels=67 * 45).width == 67
        with pytest.raises(InvalidRequest, match="67 x 45 = 3015 pixels, and this server reads at most 3014"):
            read_header(file, max_pixels=67 * 45 - 1)
        with pytest.raises(InvalidRequest, match="scale it down first"):
            decode(file, "RGB", max_pixels=67 * 45 - 1)


def test_truncated_files_are_rejected(files: Mapping[str, bytes]) -> None:
    for kind, file in files.items():
        # What follows the first frame is not needed: further frames, padding, the pointer to the next page.
        end = len(file) - (1 if kind.startswith(("jpeg", "png", "apng", "webp")) else 13)
        if kind in ("gif_animated", "tiff_pages", "mpo"):
            end //= 3
        for size in {*range(60), *np.linspace(60, end, 25).astype(int).tolist(), end}:
            if size <= end:
                try:
                    decode(file[:size], "RGB", max_pixels=MAX_PIXELS)
                except InvalidRequest:
                    continue
                pytest.fail(f"{kind} of {len(file)} bytes was decoded from its first {size}")


def test_a_png_with_a_wrong_checksum_is_rejected(files: Mapping[str, bytes]) -> None:
    file = bytearray(files["png"])
    at = file.index(b"IDAT") + 100
    file[at] ^= 1
    assert_rejected(bytes(file), "IDAT chunk does not match its checksum")


def test_a_png_with_invalid_pixels_is_rejected(write_png: WritePng) -> None:
    packed = zlib.compress(bytes(5 * 22))
    assert_rejected(write_png(7, 5, 8, 2, packed[:2] + b"abcd" + packed[6:]), "broken data stream|truncated")
    for rows in range(5):
        assert_rejected(write_png(7, 5, 8, 2, zlib.compress(bytes(rows * 22))), "truncated")
    assert_rejected(write_png(7, 5, 8, 3, zlib.compress(bytes(5 * 8))), "no PLTE chunk")
    assert_rejected(write_png(7, 5, 7, 2, packed), "damaged, or stores its pixels in an unsupported way")
    assert_rejected(write_png(7, 5, 8, 2, packed, before={b"CgBI": b"abcd"}), "critical CgBI chunk")


def test_a_gif_with_invalid_lzw_data_is_rejected() -> None:
    head = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 10, 10, 0) + b"\x02"
    assert_rejected(head + frame + b"\x04\xff\xff\xff\xff\0;", "broken data stream")
    assert_rejected(head + frame + b"\x02\x44\x01\0;", "truncated")  # the end code, too early
    assert_rejected(head + b";", "no image")


def test_sizes_of_zero_are_rejected(write_png: WritePng, files: Mapping[str, bytes]) -> None:
    assert_rejected(write_png(0, 5, 8, 2, zlib.compress(b"")), "0 x 5 pixels; both must be at least 1")
    jpeg = bytearray(files["jpeg"])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 7] = b"\0\0"
    assert_rejected(bytes(jpeg), "67 x 0 pixels")
    bmp = bytearray(files["bmp"])
    bmp[18:22] = b"\0\0\0\0"
    assert_rejected(bytes(bmp), "0 x 45 pixels")


def test_a_webp_with_a_wrong_canvas_size_is_rejected(files: Mapping[str, bytes]) -> None:
    file = bytearray(files["webp"])
    assert file[12:16] == b"VP8X"
    file[24:27] = (99).to_bytes(3, "little")
    assert_rejected(bytes(file), "cannot be decoded")


def test_inconsistent_tiff_tags_are_rejected(image: Image.Image, save: Save) -> None:
    whole = save(image, "TIFF")

    def patched(tag: int, count: int, value: int) -> bytes:
        file = bytearray(whole)
        at = re.search(struct.pack("<H", tag) + rb"[\x03\x04]\x00\x01\x00\x00\x00", whole)
        assert at is not None
        file[at.start() : at.start() + 12] = struct.pack("<HHLL", tag, 4, count, value)
        return bytes(file)

    assert_rejected(patched(273, 1, 2**32 - 1), "cannot be decoded")
    assert_rejected(patched(273, 1000, 2**32 - 1), "tag 273 reaches outside of the file")
    assert_rejected(patched(273, 2**32 - 1, 8), "tag 273 has 4294967295 elements")
    assert_rejected(patched(277, 3, 8), "tag 277 has 3 elements, and the limit is 1")
    assert_rejected(patched(277, 1, 10**9), "damaged")
    assert_rejected(patched(259, 1, 34925), r"compressed in an unsupported way \(34925\)")
    assert_rejected(whole[:4] + b"\xff\xff\xff\xff" + whole[8:], "first directory")


def test_a_jpeg_with_too_many_scans_is_rejected(files: Mapping[str, bytes]) -> None:
    file = files["jpeg_progressive"]
    start = file.index(b"\xff\xda")
    end = file.index(b"\xff", start + 14)
    assert_rejected(file[:end] + file[start:end] * 100 + file[end:], "more than 100 scans")


@pytest.mark.parametrize(("marker", "content"), [(0xE0, b"JFIF"), (0xE0, b"JFIF\0\1"), (0xEE, b"Adobe\0")])
def test_a_jpeg_with_a_cut_color_space_segment_is_rejected(
    files: Mapping[str, bytes], marker: int, content: bytes
) -> None:
    jpeg = files["jpeg_progressive"]
    segment = bytes((0xFF, marker)) + (2 + len(content)).to_bytes(2, "big") + content
    assert_rejected(jpeg[:2] + segment + jpeg[2:], "header is damaged")


def test_files_with_too_many_blocks_are_rejected(files: Mapping[str, bytes]) -> None:
    jpeg, png, gif = files["jpeg"], files["png"], files["gif"]
    assert_rejected(jpeg[:2] + b"\xff" * 100_000 + jpeg[2:], "header is damaged")
    assert_rejected(jpeg[:2] + b"\xff\xfe\0\2" * 200_000 + jpeg[2:], "more than 20000 segments")
    empty = b"\0\0\0\0teXt" + struct.pack(">L", zlib.crc32(b"teXt"))
    assert_rejected(png[:33] + empty * 200_000 + png[33:], "more than 20000 chunks")
    head = gif.index(b"!\xfe")
    assert_rejected(gif[:head] + b"!\xfe" + b"\1a" * 200_000 + b"\0" + gif[head:], "more than 20000 sub-blocks")
    assert_rejected(gif[:head] + (b"!\xfe" + b"\1a" * 200 + b"\0") * 1000 + gif[head:], "more than 20000 (sub-)?blocks")


@pytest.mark.timeout(20)
def test_an_endless_jpeg_marker_is_rejected_quickly(files: Mapping[str, bytes]) -> None:
    # With its default block size, Pillow takes minutes, and its time grows with the square of the file size.
    file = files["jpeg_progressive"]
    assert_rejected(file[: file.index(b"\xff\xda") + 14] + b"\xff" * 60_000_000, "truncated")


def test_large_run_length_encoded_bmps_are_rejected(files: Mapping[str, bytes]) -> None:
    file = bytearray(files["bmp"])
    file[18:26] = struct.pack("<ll", 3000, 2000)
    file[30:34] = struct.pack("<L", 1)
    assert_rejected(bytes(file), "run-length encoded")


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_decoded_or_rejected(files: Mapping[str, bytes], data: st.DataObject) -> None:
    file = bytearray(files[data.draw(st.sampled_from(sorted(files)))])
    # The fields that parsers rely on are mostly at the beginning of a file; in a TIFF they are at the end.
    end = data.draw(st.sampled_from([60, 300, len(file)]))
    start = data.draw(st.sampled_from([0, max(len(file) - 250, 0)]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = min(data.draw(st.integers(start, start + end)), len(file))
        match data.draw(st.sampled_from(["set", "number", "cut", "drop", "add"])):
            case "set":
                file[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "number":
                order = data.draw(st.sampled_from("<>"))
                file[at : at + 4] = struct.pack(order + "L", data.draw(st.integers(0, 2**32 - 1)))
            case "cut":
                del file[at:]
            case "drop":
                del file[at : at + data.draw(st.integers(1, 9))]
            case "add":
                file[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            planes = decode(file, "RGB", max_pixels=200_000)
        except InvalidRequest as error:
            field = error.field
        else:
            field = "image.data"
            assert planes.shape == (3, *read_header(file, max_pixels=200_000).upright)
    assert not warned
    assert field == "image.data"


def bombs(write_png: WritePng, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return small files that claim to need hundreds of megabytes. Those named ok_ contain a valid image."""
    zeros = zlib.compress(bytes(300_000_000), 9)
    pixels = zlib.compress(bytes(5 * 22))

    def patched(kind: str, at: int, value: bytes) -> bytes:
        return files[kind][:at] + value + files[kind][at + len(value) :]

    def tiff(tag: int, value: int) -> bytes:
        entries = {256: 16, 257: 16, 258: 8, 259: 5, 262: 1, 273: 8, 277: 1, 278: 16, 279: 64, tag: value}
        if tag in (322, 323):
            entries |= {322: 2**31 - 1, 323: 2**31 - 1, 324: 8, 325: 64}
            del entries[273], entries[278], entries[279]
        body = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in sorted(entries.items()))
        return b"II*\0" + struct.pack("<L", 72) + bytes(64) + struct.pack("<H", len(entries)) + body + bytes(4)

    frame = files["jpeg"].index(b"\xff\xc0") + 5
    return {
        "png_header": write_png(50_000, 50_000, 8, 2, pixels),
        "png_chunk_length": files["png"][:33] + b"\x7f\xff\xff\xff" + files["png"][37:],
        "ok_png_icc": write_png(7, 5, 8, 2, pixels, before={b"iCCP": b"icc\0\0" + zeros}),
        "ok_png_ztxt": write_png(7, 5, 8, 2, pixels, before={b"zTXt": b"Comment\0\0" + zeros}),
        "ok_png_itxt": write_png(7, 5, 8, 2, pixels, before={b"iTXt": b"Comment\0\1\0\0\0" + zeros}),
        "ok_png_pixels": write_png(7, 5, 8, 2, zeros),
        "jpeg_header": files["jpeg"][:frame] + b"\xff\xff\xff\xff" + files["jpeg"][frame + 4 :],
        "gif_screen": patched("gif", 6, b"\xff\xff\xff\xff"),
        "gif_frame": b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2\x44\1\0;",
        "webp_canvas": patched("webp", 24, b"\xff\x3f\0\xff\x3f\0"),
        "webp_lossless": b"RIFF\x40\0\0\0WEBPVP8L\x20\0\0\0\x2f\xff\xff\xff\x0f" + bytes(59),
        "bmp_header": patched("bmp", 18, struct.pack("<ll", 2**31 - 1, 2**31 - 1)),
        "bmp_colors": patched("bmp_palette", 46, b"\xff\xff\xff\xff"),
        "tiff_size": tiff(256, 2**31 - 1),
        "tiff_rows_per_strip": tiff(278, 2**31 - 1),
        "tiff_strip_bytes": tiff(279, 2**31 - 1),
        "tiff_strip_offset": tiff(273, 2**31 - 1),
        "tiff_tile": tiff(322, 2**31 - 1),
        "tiff_bits": tiff(258, 2**31 - 1),
    }


_MEASURE = """
import sys
from pathlib import Path
from poolservice.errors import InvalidRequest
from poolservice_server.images import decode

def peak():
    # Unlike ru_maxrss, VmHWM does not start with the peak of the parent process.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

for name in sys.argv[1:]:
    file = Path(name).read_bytes()
    before = peak()
    try:
        decode(file, "RGB", max_pixels=50_000_000)
        outcome = "decoded"
    except InvalidRequest:
        outcome = "rejected"
    print(Path(name).stem, outcome, round(peak() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_decompression_bombs_cost_no_memory(write_png: WritePng, files: Mapping[str, bytes], tmp_path: Path) -> None:
    made = bombs(write_png, files)
    names = []
    # One file of each variant comes first, so that memory that is allocated once is not counted.
    warmup = {f"warm_{kind}": file for kind, file in files.items()}
    large = write_png(3000, 2000, 8, 2, zlib.compress(bytes(2000 * 9001)))
    for name, file in {**warmup, **made, "large": large}.items():
        names.append(tmp_path / name)
        names[-1].write_bytes(file)
        assert len(file) < 400_000
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", _MEASURE, *map(str, names)], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in child.stdout.splitlines()]
    assert [name for name, _, _ in lines] == [path.name for path in names]
    for name, outcome, megabytes in lines:
        if name == "large":
            # This file checks the measurement itself: 6 MP are 24 MB in Pillow and 18 MB of planes.
            assert float(megabytes) > 30
            continue
        assert outcome == ("decoded" if name.startswith(("warm_", "ok_")) else "rejected"), name
        assert name.startswith("warm_") or float(megabytes) <= 16, (name, megabytes)


@pytest.mark.parametrize("data_bytes", [1, 3, 40, 63, 64, 127, 128, 129, 300])
def test_a_few_bytes_that_declare_many_pixels_are_rejected_at_once(data_bytes: int) -> None:
    """The size of the pieces that such a file is decoded in must be found, however short the file is."""
    header = struct.pack("<2sLLLLllHHLLllLL", b"BM", 54 + data_bytes, 0, 54, 40, 4000, 4000, 1, 24, 0, 0, 0, 0, 0, 0)
    assert_rejected(header + bytes(data_bytes), "")
    ihdr, idat = struct.pack(">4sLLBBBBB", b"IHDR", 4000, 4000, 8, 2, 0, 0, 0), b"IDAT" + bytes(data_bytes)
    chunks = (struct.pack(">L", len(c) - 4) + c + struct.pack(">L", zlib.crc32(c)) for c in (ihdr, idat, b"IEND"))
    assert_rejected(b"\x89PNG\r\n\x1a\n" + b"".join(chunks), "")
