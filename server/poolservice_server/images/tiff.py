"""TIFF 6.0 and BigTIFF: directories of tags."""

from poolservice_server.images import tiff_directory
from poolservice_server.images.scan import Header, Scan, refusal

_WIDTH, _HEIGHT = 256, 257
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 259, 262, 339
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_WHITE_IS_ZERO = 0

# None, fax, LZW, JPEG, deflate, PackBits, Zstandard and WebP. Others are rare (LZMA, LERC, JPEG as it was before 1995),
# and LZMA lets a file ask for gigabytes.
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000, 50001})

# The tags that say how pixels are stored. Profiles, XMP, EXIF and GPS, thumbnails and what else a file may carry are
# left out, and so is the orientation, which is applied in one place for all formats.
_PIXEL_TAGS = frozenset(
    {
        *(_WIDTH, _HEIGHT, _BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, 266),  # and fill order
        *(273, 277, 278, 279, 284),  # strips: offsets, samples a pixel, rows, byte counts, planes
        *(292, 293, 317, 320),  # fax options, predictor, colour map
        *(_TILE_WIDTH, _TILE_HEIGHT, 324, 325),  # tiles: size, offsets, byte counts
        *(332, 338, _SAMPLE_FORMAT, 347),  # ink set, extra samples, sample format, JPEG tables
        *range(529, 533),  # YCbCr: coefficients, subsampling, positions, reference black and white
    }
)

# Those of them that hold one number. Pillow would take the first of several, with a warning.
_SINGLE_TAGS = frozenset(
    {_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, 266, 277, 278, 284, 292, 293, 317, 322, 323, 332, 531}
)

# A colour map has at most 3 * 65536 elements. More strips or tiles than this are no picture within reason, and each
# becomes a Python object in Pillow.
MAX_ELEMENTS = 3 * 65536
# libtiff makes room for a whole tile, whatever the size of the picture.
MAX_TILE_PIXELS = 4096 * 4096


def scan(view: memoryview) -> Scan:
    """Read the first directory and rewrite it with no tags but those of the pixels, and no directory after it."""
    try:
        directory = tiff_directory.read(view)
    except tiff_directory.MalformedDirectory:
        raise refusal(
            f"the TIFF file's first directory lies outside of its {len(view)} bytes, or has more than "
            f"{tiff_directory.MAX_ENTRIES} entries; send the complete file"
        ) from None
    _check(directory, len(view))
    compression = directory.integer(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise refusal(
            f"the TIFF file is compressed in a way that is not read ({compression}); save it with LZW or deflate"
        )
    tile = directory.integer(_TILE_WIDTH, 0) * directory.integer(_TILE_HEIGHT, 0)
    if tile > MAX_TILE_PIXELS:
        raise refusal(f"the TIFF file has tiles of {tile} pixels, and {MAX_TILE_PIXELS} is the most")
    if directory.integer(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO and directory.integer(_BITS_PER_SAMPLE, 1) > 8:
        raise refusal("the TIFF file stores more than 8 bits with white as zero; save it with black as zero")
    turned = directory.integer(tiff_directory.ORIENTATION, 1)
    header = Header(
        "TIFF", directory.integer(_WIDTH, 0), directory.integer(_HEIGHT, 0), turned if 1 <= turned <= 8 else 1
    )
    rewritten = directory.with_only(_PIXEL_TAGS)
    end = directory.offset + len(rewritten)
    return Scan(header, [view[: directory.offset], rewritten, view[end:]])


def _check(directory: tiff_directory.Directory, file_nbytes: int) -> None:
    nbytes = 0
    for tag in sorted(_PIXEL_TAGS & directory.entries.keys()):
        entry = directory.entries[tag]
        most = 1 if tag in _SINGLE_TAGS else MAX_ELEMENTS
        if entry.elements > most:
            raise refusal(f"the TIFF file's tag {tag} has {entry.elements} elements, and {most} is the most")
        nbytes += entry.nbytes
        if entry.end > file_nbytes or nbytes > file_nbytes:
            raise refusal(f"the TIFF file's tag {tag} reaches outside of the file; send a complete, undamaged file")
