"""Compare `decode_cost` with the measured time and peak memory of decoding a varied set of files.

    python tests/bench/decode_cost.py [--side PIXELS]

A child process decodes each file. Time is the best of three runs of CPU time. Memory is how far the first run raises
the process's peak above what it used before, the file included. The command exits with 1 if an estimate of the time is
wrong by more than a factor of 4 (above a millisecond), or an estimate of the memory by more than 1.5 (above 8 MB).
Linux only.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from poolservice_server.images import ColorMode, decode_scanned, scan
from poolservice_server.images.decode_cost import decode_cost

MAX_TIME_FACTOR, MAX_MEMORY_FACTOR = 4.0, 1.5
_LEAST_SECONDS, _LEAST_BYTES = 1e-3, 8e6
_MAX_PIXELS = 10**9
_MODES: tuple[ColorMode, ...] = ("RGB", "GRAY", "RGBA")

# Format, Pillow's mode and options, by name.
_KINDS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("JPEG", "RGB", {"quality": 85}),
    "jpeg 4:4:4 q98": ("JPEG", "RGB", {"quality": 98, "subsampling": 0}),
    "jpeg gray": ("JPEG", "L", {}),
    "jpeg cmyk": ("JPEG", "CMYK", {}),
    "jpeg progressive": ("JPEG", "RGB", {"progressive": True}),
    "jpeg turned": (
        "JPEG",
        "RGB",
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    ),
    "png": ("PNG", "RGB", {}),
    "png stored": ("PNG", "RGB", {"compress_level": 0}),
    "png rgba": ("PNG", "RGBA", {}),
    "png gray": ("PNG", "L", {}),
    "png gray alpha": ("PNG", "LA", {}),
    "png palette": ("PNG", "P", {}),
    "png 1 bit": ("PNG", "1", {}),
    "png 16 bit": ("PNG", "I;16", {}),
    "png turned": ("PNG", "RGB", {"exif": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}),
    "gif": ("GIF", "P", {}),
    "bmp": ("BMP", "RGB", {}),
    "bmp palette": ("BMP", "P", {}),
    "webp": ("WEBP", "RGB", {"method": 0}),
    "webp rgba": ("WEBP", "RGBA", {"method": 0}),
    "webp lossless": ("WEBP", "RGB", {"lossless": True, "method": 0}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff cmyk": ("TIFF", "CMYK", {}),
    "tiff 16 bit": ("TIFF", "I;16", {}),
    "tiff lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff lzw 16 bit": ("TIFF", "I;16", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    "tiff jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "tiff packbits": ("TIFF", "RGB", {"compression": "packbits"}),
    "tiff zstd": ("TIFF", "RGB", {"compression": "zstd"}),
    "tiff fax": ("TIFF", "1", {"compression": "group4"}),
}


def contents(width: int, height: int) -> Iterator[tuple[str, Image.Image]]:
    """Yield a smooth and a noisy image, between which photographs lie."""
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack((rows * 255 // height, columns * 255 // width, (rows + columns) * 255 // (height + width)), -1)
    yield "smooth", Image.fromarray(smooth.astype(np.uint8))
    yield "noise", Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def write(image: Image.Image, format: str, mode: str, options: Mapping[str, Any]) -> bytes:
    """Return the file of an image in a format and mode of Pillow."""
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        converted = image.convert(mode)
    file = BytesIO()
    converted.save(file, format, **options)
    return file.getvalue()


def run_length_bmp(image: Image.Image) -> bytes:
    """Return a BMP file with run lengths of one palette."""
    pixels = np.asarray(image.convert("L"))
    rows = []
    for row in pixels[::-1]:
        ends = np.flatnonzero(np.diff(row, append=-1 - row[-1].astype(int)))
        lengths = np.diff(ends, prepend=-1)
        for length, value in zip(lengths.tolist(), row[ends].tolist(), strict=True):
            rows.append(bytes((255, value)) * (length // 255) + (bytes((length % 255, value)) if length % 255 else b""))
        rows.append(b"\0\0")
    data = b"".join(rows) + b"\0\1"
    palette = b"".join(bytes((value, value, value, 0)) for value in range(256))
    size, start = len(data), 54 + len(palette)
    numbers = [start + size, 0, start, 40, *image.size]
    head = b"BM" + b"".join(number.to_bytes(4, "little") for number in numbers) + b"\1\0\x08\0"
    return head + b"".join(n.to_bytes(4, "little") for n in (1, size, 0, 0, 256, 0)) + palette + data


def interlaced_png(image: Image.Image) -> bytes:
    """Return an interlaced PNG file, which Pillow cannot write."""
    pixels = np.asarray(image.convert("RGB"))
    rows: list[bytes] = []
    for x, y, dx, dy in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
    ):  # fmt: skip
        rows.extend(b"\0" + row.tobytes() for row in pixels[y::dy, x::dx])
    parts = {
        b"IHDR": struct.pack(">LLBBBBB", *image.size, 8, 2, 0, 0, 1),
        b"IDAT": zlib.compress(b"".join(rows)),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))
        for name, content in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def files(side: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file."""
    for content, image in contents(side, side * 3 // 4):
        for kind, (file_format, mode, options) in _KINDS.items():
            yield f"{kind}, {content}", write(image, file_format, mode, options)
        yield f"png interlaced, {content}", interlaced_png(image)
        yield f"bmp run length, {content}", run_length_bmp(image)


def measure(path: Path) -> list[list[float]]:
    """Return seconds, bytes, and the estimates of both for each color mode, in this process."""
    data = path.read_bytes()
    results = []
    for mode in _MODES:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS") - len(data)
        decode_scanned(scan(data, max_pixels=_MAX_PIXELS), mode, max_pixels=_MAX_PIXELS)
        nbytes = _status("VmHWM") - before
        seconds = min(_seconds(data, mode) for _ in range(3))
        steps, peak = decode_cost(scan(data, max_pixels=_MAX_PIXELS), mode)
        results.append([seconds, nbytes, steps * 1e-9, peak])
    return results


def _seconds(data: bytes, mode: ColorMode) -> float:
    start = time.thread_time()
    decode_scanned(scan(data, max_pixels=_MAX_PIXELS), mode, max_pixels=_MAX_PIXELS)
    return time.thread_time() - start


def _status(name: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024


def main() -> int:
    """Measure all files and print each estimate that is far off."""
    parser = argparse.ArgumentParser(description="Compare decode_cost with the time and memory of decoding.")
    parser.add_argument("--side", type=int, default=1600, help="width of the images in pixels (default: 1600)")
    parser.add_argument("--all", action="store_true", help="print all files, not only the wrong estimates")
    parser.add_argument("--measure", type=Path, metavar="FILE", help="measure one file, and print JSON")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    wrong, times, memories = 0, [], []
    # Freed memory returns to the system, so that a later mode does not reuse it.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        for name, data in files(options.side):
            path.write_bytes(data)
            command = [sys.executable, __file__, "--measure", str(path)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
            for mode, (seconds, nbytes, guessed_seconds, guessed_bytes) in zip(_MODES, json.loads(output), strict=True):
                time_factor, memory_factor = guessed_seconds / seconds, guessed_bytes / nbytes
                is_wrong = False
                if max(seconds, guessed_seconds) > _LEAST_SECONDS:
                    times.append(time_factor)
                    is_wrong |= not 1 / MAX_TIME_FACTOR <= time_factor <= MAX_TIME_FACTOR
                if max(nbytes, guessed_bytes) > _LEAST_BYTES:
                    memories.append(memory_factor)
                    is_wrong |= not 1 / MAX_MEMORY_FACTOR <= memory_factor <= MAX_MEMORY_FACTOR
                wrong += is_wrong
                if is_wrong or options.all:
                    print(
                        f"{'WRONG' if is_wrong else '     '} {name:26} {mode:4} {seconds * 1e3:8.1f} ms "
                        f"x {time_factor:5.2f}   {nbytes / 1e6:7.1f} MB x {memory_factor:5.2f}",
                        flush=True,
                    )
    print(f"estimate / measured: time {min(times):.2f} to {max(times):.2f} in {len(times)} cases, ", end="")
    print(f"memory {min(memories):.2f} to {max(memories):.2f} in {len(memories)} cases; {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
