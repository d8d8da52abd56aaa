"""The orientation is the one that Pillow applies, whatever the type of the EXIF tag, and also from XMP."""

import struct
import warnings
from collections.abc import Mapping
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from poolservice_server.images import decode

# (type, count, values as their format and the values) of the EXIF tag.
TAGS: Mapping[str, tuple[int, int, str, tuple[float, ...]]] = {
    "short": (3, 1, "H", (6,)),
    "two shorts": (3, 2, "HH", (6, 1)),
    "three shorts": (3, 3, "HHH", (6, 1, 1)),
    "no short": (3, 0, "", ()),
    "long": (4, 1, "L", (6,)),
    "byte": (1, 1, "B", (6,)),
    "two bytes": (1, 2, "BB", (6, 3)),
    "ascii": (2, 2, "BB", (ord("6"), 0)),
    "undefined": (7, 1, "B", (6,)),
    "rational": (5, 1, "LL", (6, 1)),
    "reducible rational": (5, 1, "LL", (12, 2)),
    "broken rational": (5, 1, "LL", (13, 2)),
    "rational by zero": (5, 1, "LL", (6, 0)),
    "two rationals": (5, 2, "LLLL", (6, 1, 3, 1)),
    "signed rational": (10, 1, "ll", (6, 1)),
    "signed byte": (6, 1, "b", (6,)),
    "signed short": (8, 1, "h", (6,)),
    "signed long": (9, 1, "l", (6,)),
    "float": (11, 1, "f", (6.0,)),
    "double": (12, 1, "d", (6.0,)),
    "signed 64-bit": (17, 1, "q", (6,)),
    "out of range": (3, 1, "H", (9,)),
}
PACKETS = {
    "none": "",
    "attribute": '<rdf:Description tiff:Orientation="8"/>',
    "element": "<tiff:Orientation>8</tiff:Orientation>",
    "apostrophes": "<rdf:Description tiff:Orientation='8'/>",
    "out of range": '<rdf:Description tiff:Orientation="9"/>',
}


def exif_block(order: str, kind: int, count: int, layout: str, values: tuple[float, ...]) -> bytes:
    data = struct.pack(order + layout, *values)
    stored = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "L", 26)
    start = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(order + "LHHHL", 8, 1, 0x0112, kind, count) + stored + bytes(4)
    return start + directory + (data if len(data) > 4 else b"")


def write(image: Image.Image, format: str, exif: bytes, xmp: str) -> bytes:
    file = BytesIO()
    options: dict[str, object] = {"exif": b"Exif\0\0" + exif} if exif else {}
    if xmp and format == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp, zip=len(xmp) % 2 == 0)
        options["pnginfo"] = info
    elif xmp:
        options["xmp"] = xmp.encode()
    image.save(file, format, **({"lossless": True} if format == "WEBP" else {}), **options)
    return file.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("packet", PACKETS)
def test_the_orientation_is_pillows(image: Image.Image, format: str, packet: str) -> None:
    blocks = {"none": b""}
    blocks |= {f"{name} {order}": exif_block(order, *tag) for name, tag in TAGS.items() for order in "<>"}
    for name, exif in blocks.items():
        file = write(image, format, exif, PACKETS[packet])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = ImageOps.exif_transpose(Image.open(BytesIO(file))).convert("RGB")
        planes = decode(file, "RGB", max_pixels=10_000)
        np.testing.assert_array_equal(planes.transpose(1, 2, 0), np.asarray(expected), err_msg=name)


@pytest.mark.parametrize("compressed", [False, True])
def test_exif_in_hexadecimal_digits_in_a_text_of_a_png(image: Image.Image, compressed: bool) -> None:
    exif = b"Exif\0\0" + exif_block("<", *TAGS["short"])
    digits = exif.hex()
    text = f"\nexif\n{len(exif):8}\n{digits[:72]}\n{digits[72:]}\n"
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", text, zip=compressed)
    written = BytesIO()
    image.save(written, "PNG", pnginfo=info)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(written.getvalue()))).convert("RGB")
    assert expected.size == image.size[::-1]
    planes = decode(written.getvalue(), "RGB", max_pixels=10_000)
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("packet", ["none", "attribute"])
def test_the_orientation_of_a_tiff_is_pillows(image: Image.Image, orientation: int, packet: str) -> None:
    written = BytesIO()
    tags = {274: orientation, **({700: PACKETS[packet].encode()} if packet != "none" else {})}
    image.save(written, "TIFF", tiffinfo=tags)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(written.getvalue()))).convert("RGB")
    planes = decode(written.getvalue(), "RGB", max_pixels=10_000)
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), np.asarray(expected))
