"""Scanner for TIFF 6.0 and BigTIFF files: directories of tags."""

from collections.abc import Mapping
from types import MappingProxyType

from poolservice_server.images import orientation, tiff_directory
from poolservice_server.images.scan_result import Buffer, Coding, Header, Scan, invalid_image

_WIDTH, _HEIGHT = 256, 257
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _SAMPLES_PER_PIXEL, _SAMPLE_FORMAT = 258, 259, 262, 277, 339
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_XMP = 700
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_UNSIGNED = 1

# Uncompressed, fax, LZW, JPEG, deflate, PackBits, Zstandard and WebP. The others (LZMA, LERC, the JPEG variant used
# before 1995) are rare, and LZMA lets a file request gigabytes of memory.
_COMPRESSIONS: Mapping[int, str] = MappingProxyType(
    {
        1: "raw",
        **dict.fromkeys((2, 3, 4), "tiff_fax"),
        5: "tiff_lzw",
        7: "tiff_jpeg",
        **dict.fromkeys((8, 32946), "tiff_deflate"),
        32773: "tiff_packbits",
        50000: "tiff_zstd",
        50001: "tiff_webp",
    }
)

# The tags that define how pixels are stored. All others are left out: profiles, XMP, EXIF, GPS, thumbnails; and the
# orientation, which the decoder applies for all formats.
_PIXEL_TAGS = frozenset(
    {
        *(_WIDTH, _HEIGHT, _BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, 266),  # 266: fill order
        *(273, 277, 278, 279, 284),  # strips: offsets, samples per pixel, rows, byte counts; planar configuration
        *(292, 293, 317, 320),  # fax options, predictor, color map
        *(_TILE_WIDTH, _TILE_HEIGHT, 324, 325),  # tiles: size, offsets, byte counts
        *(332, 338, _SAMPLE_FORMAT, 347),  # ink set, extra samples, sample format, JPEG tables
        *range(529, 533),  # YCbCr: coefficients, subsampling, positions, reference black and white
    }
)

# The pixel tags that hold one number. If there are several, Pillow uses the first and emits a warning.
_SINGLE_TAGS = frozenset(
    {_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, 266, 277, 278, 284, 292, 293, 317, 322, 323, 332, 531}
)

# A color map has at most 3 * 65536 elements. No reasonable image has more strips or tiles than that, and Pillow makes a
# Python object of each.
MAX_ELEMENTS = 3 * 65536
# libtiff allocates a whole tile, whatever the size of the image.
MAX_TILE_PIXELS = 4096 * 4096


def scan(view: memoryview) -> Scan:
    """Read the first directory, and replace it by one that has only pixel tags and no next directory."""
    try:
        directory = tiff_directory.read(view)
    except tiff_directory.MalformedDirectory:
        raise invalid_image(
            f"the TIFF file's first directory lies outside of the {len(view)} bytes, or has more than "
            f"{tiff_directory.MAX_ENTRIES} entries; send the complete file"
        ) from None
    _check_tags(directory, len(view))
    compression = directory.integer(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise invalid_image(
            f"the TIFF file is compressed in an unsupported way ({compression}); save it with LZW or deflate"
        )
    tile = directory.integer(_TILE_WIDTH, 0) * directory.integer(_TILE_HEIGHT, 0)
    if tile > MAX_TILE_PIXELS:
        raise invalid_image(
            f"the TIFF file has tiles of {tile} pixels, and the limit is {MAX_TILE_PIXELS}; save it with smaller tiles"
        )
    if directory.integer(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO and directory.integer(_BITS_PER_SAMPLE, 1) > 8:
        raise invalid_image("the TIFF file stores more than 8 bits with white as zero; save it with black as zero")
    exif_orientation = orientation.from_directory(directory, view)
    if exif_orientation is None and _XMP in directory.entries:
        exif_orientation = orientation.from_xmp(directory.data_of(directory.entries[_XMP], view)[1])
    width, height = directory.integer(_WIDTH, 0), directory.integer(_HEIGHT, 0)
    header = Header("TIFF", width, height, exif_orientation or 1, _depth(directory, view))
    rewritten = directory.with_only(_PIXEL_TAGS)
    end = directory.offset + len(rewritten)
    parts: list[Buffer] = [view[: directory.offset], rewritten, view[end:]]
    return Scan(header, parts, _coding(directory, view, header, _COMPRESSIONS[compression]))


def _depth(directory: tiff_directory.Directory, view: memoryview) -> int:
    """Return the bits per sample of an image that is decoded to uint16: unsigned grayscale; 8 for all others."""
    bits = directory.first_short(_BITS_PER_SAMPLE, view, default=1)
    is_unsigned = directory.first_short(_SAMPLE_FORMAT, view, default=_UNSIGNED) == _UNSIGNED
    is_gray = directory.integer(_PHOTOMETRIC, 1) == _BLACK_IS_ZERO and directory.integer(_SAMPLES_PER_PIXEL, 1) == 1
    return bits if bits in (12, 16) and is_unsigned and is_gray else 8


def _coding(directory: tiff_directory.Directory, view: memoryview, header: Header, method: str) -> Coding:
    bits = directory.first_short(_BITS_PER_SAMPLE, view, default=1)
    channels = directory.integer(_SAMPLES_PER_PIXEL, 1)
    tile_width, tile_height = directory.integer(_TILE_WIDTH, 0), directory.integer(_TILE_HEIGHT, 0)
    width, height = header.width, header.height
    if tile_width and tile_height:
        width, height = -(-width // tile_width) * tile_width, -(-height // tile_height) * tile_height
    return Coding(method, len(view), height * ((width * bits * channels + 7) // 8), channels=channels)


def _check_tags(directory: tiff_directory.Directory, file_nbytes: int) -> None:
    nbytes = 0
    for tag in sorted(_PIXEL_TAGS & directory.entries.keys()):
        entry = directory.entries[tag]
        limit = 1 if tag in _SINGLE_TAGS else MAX_ELEMENTS
        if entry.elements > limit:
            raise invalid_image(f"the TIFF file's tag {tag} has {entry.elements} elements, and the limit is {limit}")
        nbytes += entry.nbytes
        if entry.end > file_nbytes or nbytes > file_nbytes:
            raise invalid_image(
                f"the TIFF file's tag {tag} reaches outside of the file; send a complete, undamaged file"
            )
