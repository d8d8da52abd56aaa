"""Makes glibc's allocator keep the memory of large messages instead of returning it to the kernel.

By default glibc returns the memory of a large message and faults it in again for the next call, which costs a third of
the server's time on messages of hundreds of kilobytes. Keeping it costs about 100 MB of resident memory. Only a process
of our own may do this: a client library must not change its host's allocator.
"""

import ctypes
import sys

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3

_SETTINGS = ((_M_TRIM_THRESHOLD, 512 * 2**20), (_M_MMAP_THRESHOLD, 128 * 2**20), (_M_TOP_PAD, 16 * 2**20))


def keep_large_messages() -> bool:
    """Raise glibc's thresholds; return False, without changes, if the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, value) == 1 for option, value in _SETTINGS)
