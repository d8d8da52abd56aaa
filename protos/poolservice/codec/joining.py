"""Joins the pieces of a message; other threads run while it copies large ones.

bytes.join holds Python's global lock while it copies a view. For 60 MB that takes 30 ms, in which no other thread runs:
in a server the event loop stands still, and so do health checks.
"""

import ctypes
from collections.abc import Sequence

import numpy as np

from poolservice.codec.wire import Buffer, size_of

# Copying less takes half a millisecond, and joining without the lock costs 10 us more.
_LARGE_BYTES = 2**20

# The C API allows writing into a bytes object that was created without contents and that nothing else refers to yet.
_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
_new_bytes.restype = ctypes.py_object
_address_of = ctypes.pythonapi.PyBytes_AsString
_address_of.argtypes = (ctypes.py_object,)
_address_of.restype = ctypes.c_void_p
_view_of_memory = ctypes.pythonapi.PyMemoryView_FromMemory
_view_of_memory.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_view_of_memory.restype = ctypes.py_object
_WRITABLE = 0x200  # PyBUF_WRITE


def join(pieces: Sequence[Buffer], nbytes: int) -> bytes:
    """Return the pieces, each contiguous, as one bytes object.

    Args:
        pieces: the pieces in their order.
        nbytes: the approximate sum of their sizes, in bytes. Large messages are copied without the lock.
    """
    return b"".join(pieces) if nbytes < _LARGE_BYTES else _join_without_lock(pieces)


def _join_without_lock(pieces: Sequence[Buffer]) -> bytes:
    sizes = [size_of(piece) for piece in pieces]
    joined: bytes = _new_bytes(None, sum(sizes))
    target = np.frombuffer(_view_of_memory(_address_of(joined), len(joined), _WRITABLE), np.uint8)
    at = 0
    for piece, size in zip(pieces, sizes, strict=True):
        if size:
            # numpy releases the lock while it copies.
            target[at : at + size] = np.frombuffer(piece, np.uint8)
            at += size
    return joined
