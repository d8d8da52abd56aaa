"""Decoded images have the pixels that Pillow gives, or computed values where Pillow does not decode usefully."""

import struct
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from poolservice.errors import InvalidRequest
from poolservice_server.images import FORMATS, ColorMode, decode, read_header

MAX_PIXELS = 1_000_000
PILLOW_MODES: dict[ColorMode, str] = {"RGB": "RGB", "GRAY": "L", "RGBA": "RGBA"}
Save = Callable[..., bytes]
WritePng = Callable[..., bytes]


def decode_with_pillow(file: bytes, mode: ColorMode) -> np.ndarray:
    opened = Image.open(BytesIO(file))
    opened.load()
    if mode != "RGBA":
        opened.info.pop("transparency", None)
    pixels = np.asarray(ImageOps.exif_transpose(opened).convert(PILLOW_MODES[mode]))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("mode", PILLOW_MODES)
def test_8_bit_images_are_decoded_as_by_pillow(files: Mapping[str, bytes], mode: ColorMode) -> None:
    for kind, file in files.items():
        if "16_bit" not in kind:
            planes = decode(file, mode, max_pixels=MAX_PIXELS)
            assert planes.dtype == np.uint8, kind
            assert planes.flags.c_contiguous, kind
            assert np.array_equal(planes, decode_with_pillow(file, mode)), kind


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_a_photograph_is_decoded_from_any_buffer(photograph_bytes: bytes, wrap: Callable[[bytes], bytes]) -> None:
    planes = decode(wrap(photograph_bytes), "RGB", max_pixels=MAX_PIXELS)
    assert planes.shape == (3, 600, 512)
    assert np.array_equal(planes, decode_with_pillow(photograph_bytes, "RGB"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(image: Image.Image, save: Save, format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(image, format, exif=exif)
    header = read_header(file, max_pixels=MAX_PIXELS)
    assert (header.width, header.height, header.orientation) == (67, 45, orientation)
    planes = decode(file, "RGB", max_pixels=MAX_PIXELS)
    assert planes.shape[1:] == header.upright == ((67, 45) if orientation >= 5 else (45, 67))
    assert np.array_equal(planes, decode_with_pillow(file, "RGB"))


def test_damaged_exif_is_ignored(image: Image.Image, save: Save) -> None:
    for exif in (
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0hello, world",
    ):
        file = save(image, "JPEG", exif=exif)
        assert read_header(file, max_pixels=MAX_PIXELS).orientation == 1
        assert decode(file, "RGB", max_pixels=MAX_PIXELS).shape == (3, 45, 67)


def test_the_header_has_format_and_size(files: Mapping[str, bytes]) -> None:
    seen = set()
    for kind, file in files.items():
        header = read_header(file, max_pixels=MAX_PIXELS)
        assert (header.width, header.height) == (67, 45), kind
        assert header.format == ("JPEG" if kind == "mpo" else kind.removeprefix("a").split("_")[0].upper()), kind
        seen.add(header.format)
    assert seen == set(FORMATS)


@pytest.mark.parametrize("kind", ["mpo", "apng", "webp_animated", "gif_animated", "tiff_pages"])
def test_only_the_first_frame_is_decoded(files: Mapping[str, bytes], image: Image.Image, kind: str) -> None:
    planes = decode(files[kind], "RGB", max_pixels=MAX_PIXELS)
    first = np.asarray(image).transpose(2, 0, 1).astype(int)
    assert planes.shape == first.shape
    assert np.abs(planes - first).mean() < 12


def test_only_the_color_mode_rgba_keeps_transparency(files: Mapping[str, bytes]) -> None:
    planes = decode(files["png_palette_alpha"], "RGBA", max_pixels=MAX_PIXELS)
    assert len(np.unique(planes[3])) > 8
    assert np.array_equal(decode(files["png_palette_alpha"], "RGB", max_pixels=MAX_PIXELS), planes[:3])
    assert (decode(files["jpeg"], "RGBA", max_pixels=MAX_PIXELS)[3] == 255).all()


@pytest.mark.parametrize(("color", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_png_with_colors_or_alpha_keeps_the_high_byte(write_png: WritePng, color: int, samples: int) -> None:
    values = np.random.default_rng(color).integers(0, 65536, (5, 7, samples)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    file = write_png(7, 5, 16, color, zlib.compress(rows))
    planes = decode(file, "RGBA", max_pixels=MAX_PIXELS)
    high = (values >> 8).astype(np.uint8).transpose(2, 0, 1)
    assert np.array_equal(planes[:3], high[:3] if samples > 2 else np.repeat(high[:1], 3, 0))
    assert np.array_equal(planes[3], high[-1] if samples in (2, 4) else np.full((5, 7), 255))
    if samples < 3:
        assert np.array_equal(decode(file, "GRAY", max_pixels=MAX_PIXELS), high[:1])


def test_16_bit_grayscale_png_keeps_every_value(write_png: WritePng) -> None:
    values = np.array([[0x1234, 0x1235], [0xFFFF, 0x1234]], ">u2")
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    file = write_png(2, 2, 16, 0, rows, before={b"tRNS": b"\x12\x34"})
    assert read_header(file, max_pixels=MAX_PIXELS).dtype == np.uint16
    assert_deep(decode(file, "GRAY", max_pixels=MAX_PIXELS), values[None])
    assert_deep(decode(file, "RGB", max_pixels=MAX_PIXELS), np.stack((values,) * 3))
    alpha = np.array([[0, 65535], [65535, 0]])
    assert_deep(decode(file, "RGBA", max_pixels=MAX_PIXELS), np.stack((values, values, values, alpha)))


def assert_deep(planes: np.ndarray, expected: np.ndarray) -> None:
    assert planes.dtype == np.uint16
    assert planes.flags.c_contiguous
    np.testing.assert_array_equal(planes, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_images_are_turned_upright(save: Save, orientation: int) -> None:
    values = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1871
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(Image.fromarray(values), "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(file))))
    assert_deep(decode(file, "GRAY", max_pixels=MAX_PIXELS), expected[None])


def tiff(order: str, width: int, height: int, pixels: bytes, tags: dict[int, tuple[int, ...]]) -> bytes:
    """An uncompressed TIFF of one strip; `tags` are shorts."""
    longs = {256: (width,), 257: (height,), 273: (8,), 278: (height,), 279: (len(pixels),)}
    entries = b""
    for tag, values in sorted({**longs, **tags}.items()):
        kind, letter = (4, "L") if tag in longs else (3, "H")
        data = struct.pack(f"{order}{len(values)}{letter}", *values)
        entries += struct.pack(order + "HHL", tag, kind, len(values)) + data.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HL", 42, 8 + len(pixels))
    return head + pixels + struct.pack(order + "H", len(longs | tags)) + entries + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grayscale_tiff_keeps_every_value(order: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7)).astype(order + "u2")
    file = tiff(order, 7, 5, values.tobytes(), {258: (16,), 262: (1,)})
    assert_deep(decode(file, "GRAY", max_pixels=MAX_PIXELS), values[None])
    with pytest.raises(InvalidRequest, match="save it with black as zero"):
        decode(tiff(order, 7, 5, values.tobytes(), {258: (16,), 262: (0,)}), "GRAY", max_pixels=MAX_PIXELS)


def test_12_bit_grayscale_tiff_is_widened_to_16_bits() -> None:
    # Two samples in three bytes: 0 and 4095, 1 and 2048.
    file = tiff("<", 2, 2, bytes((0x00, 0x0F, 0xFF, 0x00, 0x18, 0x00)), {258: (12,), 262: (1,)})
    assert_deep(decode(file, "GRAY", max_pixels=MAX_PIXELS), np.array([[[0, 65535], [16, 32776]]]))


def test_premultiplied_alpha_in_a_tiff_is_undone() -> None:
    # Gray 50 with alpha 127 was 100 before premultiplication, which extra sample type 1 declares.
    file = tiff("<", 2, 1, bytes([50, 127, 80, 255]), {258: (8, 8), 262: (1,), 277: (2,), 338: (1,)})
    assert decode(file, "GRAY", max_pixels=MAX_PIXELS).tolist() == [[[100, 80]]]
    assert decode(file, "RGBA", max_pixels=MAX_PIXELS)[3].tolist() == [[127, 255]]


def test_a_lab_tiff_is_converted_through_rgb(image: Image.Image, save: Save) -> None:
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    file = save(lab, "TIFF")
    planes = decode(file, "RGB", max_pixels=MAX_PIXELS)
    assert np.abs(planes.astype(int) - np.asarray(image).transpose(2, 0, 1)).mean() < 3
    assert decode(file, "GRAY", max_pixels=MAX_PIXELS).shape == (1, 45, 67)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_defined_black_and_white_are_rejected(image: Image.Image, save: Save, mode: str) -> None:
    with pytest.raises(InvalidRequest, match="send them as a tensor") as caught:
        decode(save(image.convert("L").convert(mode), "TIFF"), "RGB", max_pixels=MAX_PIXELS)
    assert caught.value.field == "image.data"


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
@pytest.mark.parametrize("format", FORMATS)
def test_extreme_shapes_are_decoded(save: Save, format: str, size: tuple[int, int]) -> None:
    file = save(Image.linear_gradient("L").resize(size).convert("RGB"), format)
    planes = decode(file, "RGB", max_pixels=MAX_PIXELS)
    assert planes.shape == (3, size[1], size[0])
    assert np.array_equal(planes, decode_with_pillow(file, "RGB"))


def test_a_gif_frame_beyond_the_screen_enlarges_the_image(files: Mapping[str, bytes]) -> None:
    file = bytearray(files["gif"])
    file[6:10] = struct.pack("<HH", 10, 10)
    planes = decode(file, "RGB", max_pixels=MAX_PIXELS)
    assert planes.shape == (3, 45, 67)
    assert np.array_equal(planes, decode_with_pillow(bytes(file), "RGB"))


def test_several_threads_decode_at_the_same_time(files: Mapping[str, bytes]) -> None:
    names = list(files) * 4
    with ThreadPoolExecutor(8) as threads:
        decoded = threads.map(lambda name: decode(files[name], "RGB", max_pixels=MAX_PIXELS), names)
        for name, planes in zip(names, decoded, strict=True):
            assert np.array_equal(planes, decode(files[name], "RGB", max_pixels=MAX_PIXELS)), name


def test_the_pixel_limit_may_exceed_that_of_pillow(
    image: Image.Image, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    file = save(image, "WEBP")
    assert decode(file, "RGB", max_pixels=MAX_PIXELS).shape == (3, 45, 67)
