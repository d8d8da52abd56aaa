"""Image file directories: the tables of tags in TIFF files and EXIF blocks."""

import struct
from typing import NamedTuple

# TIFF and EXIF together define fewer tags than this.
MAX_ENTRIES = 4096

# The size of one element in bytes, by type. Entries of other types are ignored.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SHORT = 3
# The position of the data in an entry, in a TIFF and in a BigTIFF.
_DATA_POSITIONS = (8, 12)
_INTEGERS = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}


class MalformedDirectory(ValueError):
    """There is no TIFF header, or the directory is too long or lies outside of the bytes."""


class Entry(NamedTuple):
    """One tag of a directory: the bytes of its entry, and the size, value and position of its data."""

    raw: bytes
    elements: int
    #: The size of the data in bytes.
    nbytes: int
    #: The value if the data is a single integer, else None.
    integer: int | None
    #: The end of the data in the file; 0 if the data is stored in the entry itself.
    end: int


class Directory(NamedTuple):
    """The first directory of a TIFF file or an EXIF block."""

    order: str
    big: bool
    offset: int
    entries: dict[int, Entry]

    def integer(self, tag: int, default: int) -> int:
        """Return the value of `tag`, or `default` if the tag is missing or not a single integer."""
        entry = self.entries.get(tag)
        return default if entry is None or entry.integer is None else entry.integer

    def data_of(self, entry: Entry, view: memoryview) -> tuple[int, memoryview]:
        """Return the type of an entry and its data, which is cut off where `view` ends."""
        (kind,) = struct.unpack_from(self.order + "H", entry.raw, 2)
        if entry.end:
            return kind, view[entry.end - entry.nbytes : entry.end]
        return kind, memoryview(entry.raw)[_DATA_POSITIONS[self.big] :]

    def first_short(self, tag: int, view: memoryview, *, default: int) -> int:
        """Return the first of the 16-bit integers of `tag`, or `default` if the tag is missing or of another type."""
        entry = self.entries.get(tag)
        if entry is None:
            return default
        kind, data = self.data_of(entry, view)
        if kind != _SHORT:
            return default
        return int.from_bytes(data[:2], "little" if self.order == "<" else "big")

    def with_only(self, tags: frozenset[int]) -> bytes:
        """Return the directory as bytes with the entries of `tags` only, and without a next directory."""
        entries = [entry.raw for tag, entry in self.entries.items() if tag in tags]
        count, next_offset = ("Q", "Q") if self.big else ("H", "L")
        return b"".join(
            (struct.pack(self.order + count, len(entries)), *entries, struct.pack(self.order + next_offset, 0))
        )


def read(view: memoryview) -> Directory:
    """Read the first directory of a TIFF file or EXIF block.

    Raises:
        MalformedDirectory: `view` has no TIFF header, or its first directory is too long or lies outside of it.
    """
    order = {b"II": "<", b"MM": ">"}.get(bytes(view[:2]))
    if order is None or len(view) < 8:
        raise MalformedDirectory
    big = struct.unpack_from(order + "H", view, 2)[0] == 43
    layout = struct.Struct(order + ("HHQ8s" if big else "HHL4s"))
    try:
        (offset,) = struct.unpack_from(order + ("Q" if big else "L"), view, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), view, offset)
        start = offset + (8 if big else 2)
        if count > MAX_ENTRIES or count * layout.size > len(view) - start:
            raise MalformedDirectory
    except (struct.error, OverflowError):
        raise MalformedDirectory from None
    entries: dict[int, Entry] = {}
    for tag, kind, elements, data in layout.iter_unpack(view[start : start + count * layout.size]):
        # If a tag is repeated, the first one counts, as in Pillow.
        if kind in _SIZES and tag not in entries:
            raw = layout.pack(tag, kind, elements, data)
            entries[tag] = _entry(raw, kind, elements, data, order)
    return Directory(order, big, offset, entries)


def _entry(raw: bytes, kind: int, elements: int, data: bytes, order: str) -> Entry:
    nbytes = elements * _SIZES[kind]
    if nbytes > len(data):
        (offset,) = struct.unpack(order + ("Q" if len(data) == 8 else "L"), data)
        return Entry(raw, elements, nbytes, None, offset + nbytes)
    if elements == 1 and kind in _INTEGERS:
        return Entry(raw, elements, nbytes, struct.unpack_from(order + _INTEGERS[kind], data)[0], 0)
    return Entry(raw, elements, nbytes, None, 0)
