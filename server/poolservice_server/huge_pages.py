"""Lets glibc's allocator use huge pages, which only the environment in which a process starts can tell it.

The kernel supplies fresh memory page by page, 4 KiB at a time. gRPC copies each message into fresh memory on the event
loop, and for one of 60 MB that means 15,000 pages in each copy. Huge pages of 2 MiB make these copies several times as
fast. They cost about 20 MB of resident memory.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"
_MADVISE = "1"

# The first release of glibc with the tunable.
_FIRST_GLIBC = (2, 35)

_KERNEL_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Execute the running program once more in an environment with huge pages, unless they are impossible or chosen.

    The process keeps its id, its files and its arguments. Call this before anything is open or imported that takes
    long. It returns if the environment already has the tunable, whatever its value, or if the C library or the kernel
    has no huge pages to choose.
    """
    environment = with_huge_pages(os.environ)
    if environment is None or not _are_supported():
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - this very program


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the environment with the tunable added to those it has, or None if it has this one."""
    tunables = [tunable for tunable in environment.get(_VARIABLE, "").split(":") if tunable]
    if any(tunable.partition("=")[0] == _TUNABLE for tunable in tunables):
        return None
    return {**environment, _VARIABLE: ":".join((*tunables, f"{_TUNABLE}={_MADVISE}"))}


def _are_supported() -> bool:
    if not sys.platform.startswith("linux") or not sys.executable:
        return False
    try:
        library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        kernel_mode = _KERNEL_MODE.read_text()
    except (ValueError, OSError):
        # Another C library, or a kernel without huge pages.
        return False
    # In the mode "always" the kernel uses them anyway, and in "never" it refuses.
    return library == "glibc" and _numbers(version) >= _FIRST_GLIBC and "[madvise]" in kernel_mode


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".") if number.isdecimal())
