"""The orientation of a PNG, from its EXIF chunk, or else from text chunks that contain EXIF or XMP."""

import zlib
from collections.abc import Sequence

from poolservice_server.images import orientation

#: The name of a chunk, and the chunk with its length, name and checksum.
Chunk = tuple[bytes, memoryview]

_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
# ImageMagick and exiftool wrote EXIF in hexadecimal digits to a text before the EXIF chunk was standardized in 2017.
_HEXADECIMAL_EXIF = b"Raw profile type exif\0"
_XMP = b"XML:com.adobe.xmp\0"
# Pillow's limit too.
_LONGEST_TEXT = 2**20


def read(chunks: Sequence[Chunk]) -> int:
    """Return the orientation, 1 to 8, as Pillow reads it.

    Only the last chunk of each kind is read, so that a file of many chunks takes no longer.

    Args:
        chunks: the chunks that contain no pixels.
    """
    exif: memoryview | None = None
    hexadecimal: Chunk | None = None
    xmp: Chunk | None = None
    for chunk in chunks:
        name, whole = chunk
        if name == b"eXIf":
            exif = whole[8:-4]
        elif name in _TEXTS and whole[8 : 8 + len(_HEXADECIMAL_EXIF)] == _HEXADECIMAL_EXIF:
            hexadecimal = chunk
        elif name == b"iTXt" and whole[8 : 8 + len(_XMP)] == _XMP:
            xmp = chunk
    if exif is None and hexadecimal is not None:
        exif = _decode(_read_text(*hexadecimal))
    return orientation.from_metadata(exif, None if xmp is None else _read_text(*xmp))


def _decode(text: bytes) -> memoryview:
    """Return the bytes of a text that has an empty line, a name, a length, and lines of hexadecimal digits."""
    try:
        return memoryview(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii")))
    except ValueError:
        return memoryview(b"")


def _read_text(name: bytes, whole: memoryview) -> bytes:
    """Return the text of a chunk; b"" if it is longer than a megabyte or damaged."""
    _, _, content = bytes(whole[8:-4]).partition(b"\0")
    is_compressed = name == b"zTXt"
    if is_compressed:
        content = content[1:]
    elif name == b"iTXt":
        # Whether the text is compressed, the method, a language, and the keyword in that language.
        flags, texts = content[:2], content[2:].split(b"\0", 2)
        is_compressed = flags[:1] != b"\0"
        if len(texts) != 3 or (is_compressed and flags[1:] != b"\0"):
            return b""
        content = texts[2]
    if not is_compressed:
        return content
    decompressor = zlib.decompressobj()
    try:
        text = decompressor.decompress(content, _LONGEST_TEXT)
    except zlib.error:
        return b""
    return b"" if decompressor.unconsumed_tail else text
