"""glibc's allocator, told to keep the memory of large messages.

By default it gives the memory of a large message back to the kernel and faults it in anew for each call, which
costs a third of the server's time on messages of hundreds of kilobytes. The price is resident memory: about
100 MB more. Only for a process of our own: a client library does not do this to its host.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3

_SETTINGS = ((_M_TRIM_THRESHOLD, 512 * 2**20), (_M_MMAP_THRESHOLD, 128 * 2**20), (_M_TOP_PAD, 16 * 2**20))


def keep_large_messages() -> bool:
    """Raise glibc's thresholds; False where the C library is another one and nothing was changed."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, value) == 1 for option, value in _SETTINGS)
