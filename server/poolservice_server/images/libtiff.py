"""Silence libtiff, which writes a line to stderr for each fault of a file.

A server's log would otherwise contain lines that no logger wrote, with text that a caller chose. Pillow reports the
same faults as exceptions.
"""

import ctypes

from PIL import Image


def silence() -> bool:
    """Make libtiff discard its messages; return False if its handlers cannot be reached in this build of Pillow."""
    try:
        # Symbols of the libraries that Pillow's own library is linked to are found through it.
        library = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]
        for setter in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
    except (AttributeError, OSError):
        # libtiff is linked statically, or is missing.
        return False
    return True
