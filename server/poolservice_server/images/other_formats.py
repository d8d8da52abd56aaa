"""Recognize files of unsupported formats, so that the error can name the format."""

from collections.abc import Mapping
from types import MappingProxyType

# The number of bytes that are examined.
_PREFIX = 1024

_PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "a PDF document; extract or render its images first"),
    (b"PK\x03\x04", "a ZIP archive or an office document; extract its images first"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x1f\x8b", "a gzip file; decompress it first"),
    (b"Rar!\x1a\x07", "a RAR archive; extract its images first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; extract its images first"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 codestream"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (b"\0\0\1\0", "an ICO file"),
    (b"%!PS", "a PostScript file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x93NUMPY", "a NumPy array; load it and send it as a tensor"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; load it and send an array as a tensor"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the image with git lfs pull"),
)

# Files in the ISO base media format name their brand after "ftyp".
_BRANDS: Mapping[bytes, str] = MappingProxyType(
    {
        **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC image"),
        **dict.fromkeys((b"avif", b"avis"), "an AVIF image"),
    }
)

_HTML_TAGS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<title", b"<script")


def describe(view: memoryview) -> str:
    """Return the name of the format with an article, and advice if it is not obvious; "" for an unknown format."""
    prefix = bytes(view[:_PREFIX])
    for magic, description in _PREFIXES:
        if prefix.startswith(magic):
            return description
    if prefix[4:8] == b"ftyp":
        return _BRANDS.get(prefix[8:12], "a video or another file in the ISO base media format")
    if not any(prefix):
        return f"{'zeros' if len(view) <= _PREFIX else 'a file that begins with zeros'}, as an aborted download leaves"
    return _describe_text(prefix)


def _describe_text(prefix: bytes) -> str:
    encoding = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb": "utf-8-sig"}.get(prefix[:2], "utf-8")
    # The prefix may end inside a character.
    text = prefix.decode(encoding, "replace").rstrip("\ufffd").strip()
    if not all(character.isprintable() or character.isspace() for character in text) or "\ufffd" in text:
        return ""
    lower = text.lower().encode()
    if any(tag in lower for tag in _HTML_TAGS):
        return "an HTML page; a downloader that saves a login or error page in place of the image is the usual cause"
    if b"<svg" in lower:
        return "an SVG drawing; render it first"
    if lower.startswith(b"<"):
        return "an XML document; an error message of the storage service in place of the image is the usual cause"
    if lower.startswith((b"{", b"[")):
        return "a JSON document; an error message of the web service in place of the image is the usual cause"
    if lower.startswith(b"data:image/"):
        return "a data URL; decode the Base64 after its comma first"
    return "text; if it is Base64, decode it first, and if it is a path or a URL, send the file's bytes" if text else ""
