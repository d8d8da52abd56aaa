"""Silence libtiff, which writes a line to stderr for each fault of a file.

These lines would bypass the server's logger, and contain text that a caller chose. Pillow reports the same faults as
exceptions.
"""

import contextlib
import ctypes

from PIL import Image


def silence() -> None:
    """Make libtiff discard its messages, unless its handlers cannot be reached in this build of Pillow."""
    # The handlers are missing if libtiff is linked statically.
    with contextlib.suppress(AttributeError, OSError):
        # Symbols of the libraries that Pillow's own library is linked to are found through it.
        library = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]
        for setter in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
