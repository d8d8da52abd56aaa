"""Makes glibc's allocator keep the memory of large messages, and return it to the kernel when it is not used any more.

By default glibc returns the memory of a large message and faults it in again for the next call, which costs a third of
the server's time on messages of hundreds of kilobytes. Keeping it costs about 100 MB of resident memory. Only a process
of our own may do this: a client library must not change its host's allocator.

After a burst of work glibc would keep the memory for ever, because a small block somewhere behind it is still used.
`MemoryReturn` returns it.
"""

import asyncio
import ctypes
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3

# A block of more than 32 MiB is mapped by itself and returned when it is freed; copying it takes longer than that.
_SETTINGS = ((_M_TRIM_THRESHOLD, 512 * 2**20), (_M_MMAP_THRESHOLD, 32 * 2**20), (_M_TOP_PAD, 16 * 2**20))

_MEMORY_COUNTS = Path("/proc/self/statm")
_PAGE_BYTES = resource.getpagesize()

# Returning 64 MiB takes 15 ms, in which threads that allocate memory may wait.
_WORTH_RETURNING_BYTES = 64 * 2**20
_IDLE_BYTES = 8 * 2**20
_INTERVAL_SECONDS = 1.0
# In checks: a server that really needs more memory than at its start tries once a minute.
_LONGEST_WAIT = 60


def keep_large_messages() -> bool:
    """Raise glibc's thresholds; return False, without changes, if the C library is not glibc."""
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    return all(mallopt(option, value) == 1 for option, value in _SETTINGS)


def resident_bytes() -> int:
    """Return the resident memory of this process on Linux."""
    return int(_MEMORY_COUNTS.read_text().split()[1]) * _PAGE_BYTES


def trim() -> None:
    """Return glibc's free memory to the kernel, without Python's global lock; do nothing for another C library."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


class MemoryReturn:
    """Returns free memory to the kernel when the server is idle after it has used much more.

    Args:
        used_bytes: returns the bytes that requests use now; with few of them, the server is idle.
        resident_bytes: returns the resident memory of the process.
        trim: returns the free memory. It takes milliseconds, so it runs on a thread.
    """

    def __init__(
        self,
        used_bytes: Callable[[], int],
        resident_bytes: Callable[[], int] = resident_bytes,
        trim: Callable[[], None] = trim,
    ) -> None:
        self._used_bytes = used_bytes
        self._resident_bytes = resident_bytes
        self._trim = trim
        self._was_idle = False
        # The least resident memory that was seen.
        self._least_bytes = 0
        # Checks to let pass before the next return, and before the one after it.
        self._wait, self._next_wait = 0, 1
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Check from time to time, on the running event loop, whether there is memory to return."""
        if _MEMORY_COUNTS.exists() and _glibc("malloc_trim") is not None:
            self._least_bytes = self._resident_bytes()
            self._check_later()

    def stop(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()

    def check(self) -> threading.Thread | None:
        """Return memory if the server was idle at this check and the last one; return the thread that does it.

        While much memory stays resident, the server tries again at growing intervals: what was in use at one time may
        be free at another.
        """
        was_idle, self._was_idle = self._was_idle, self._used_bytes() <= _IDLE_BYTES
        if not (was_idle and self._was_idle):
            self._wait, self._next_wait = 0, 1
            return None
        resident = self._resident_bytes()
        self._least_bytes = min(self._least_bytes, resident)
        if resident < self._least_bytes + _WORTH_RETURNING_BYTES:
            return None
        if self._wait:
            self._wait -= 1
            return None
        self._wait, self._next_wait = self._next_wait, min(2 * self._next_wait, _LONGEST_WAIT)
        thread = threading.Thread(target=self._trim, name="memory-return", daemon=True)
        thread.start()
        return thread

    def _check(self) -> None:
        self.check()
        self._check_later()

    def _check_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_INTERVAL_SECONDS, self._check)


def _glibc(name: str) -> "Callable[..., int] | None":
    """Return a function of glibc, or None if the C library is another one."""
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found
