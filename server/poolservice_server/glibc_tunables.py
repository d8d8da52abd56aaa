"""Settings of glibc's allocator that it reads only when a process starts.

- One arena. By default each thread allocates from an arena of its own, and what threads free in one arena no other
  reuses. A server that had decoded large images kept 135 MB, and keeps 1 MB with one arena; at most it needed 606 MB,
  and 364 MB with one. Python's global lock lets one thread at a time allocate anyway, apart from kernels.
- Huge pages. The kernel supplies fresh memory page by page, and gRPC copies each message into fresh memory on the event
  loop. For a message of 60 MB that means 15,000 pages of 4 KiB in each copy. Huge pages of 2 MiB make receiving it five
  to ten times as fast, and cost about 20 MB of resident memory.
"""

import os
import sys
from collections.abc import Mapping

_VARIABLE = "GLIBC_TUNABLES"

_ONE_ARENA = "glibc.malloc.arena_max=1"
# An older variable with the same meaning.
_ARENA_VARIABLE = "MALLOC_ARENA_MAX"

# The allocator asks the kernel for huge pages with madvise(2).
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
_FIRST_GLIBC_WITH_HUGE_PAGES = (2, 35)


def restart_with_tunables() -> None:
    """Execute the running program once more with these settings, unless its environment has them or values of its own.

    The process keeps its id, its files and its arguments. Call this before anything is open, and before imports that
    take long. Without glibc, do nothing.
    """
    library, _, version = _c_library().partition(" ")
    if library != "glibc" or not sys.executable:
        return
    environment = with_tunables(os.environ, huge_pages=_numbers(version) >= _FIRST_GLIBC_WITH_HUGE_PAGES)
    if environment is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - this very program


def with_tunables(environment: Mapping[str, str], *, huge_pages: bool) -> dict[str, str] | None:
    """Return the environment with the missing settings added, or None if none is missing.

    Args:
        environment: the environment; values in it, by whatever variable, stay.
        huge_pages: whether this release of glibc can use huge pages.
    """
    tunables = [tunable for tunable in environment.get(_VARIABLE, "").split(":") if tunable]
    wanted = [] if _ARENA_VARIABLE in environment else [_ONE_ARENA]
    if huge_pages:
        wanted.append(_HUGE_PAGES)
    chosen = {_name(tunable) for tunable in tunables}
    added = [tunable for tunable in wanted if _name(tunable) not in chosen]
    return {**environment, _VARIABLE: ":".join((*tunables, *added))} if added else None


def _name(tunable: str) -> str:
    return tunable.partition("=")[0]


def _c_library() -> str:
    """Return the name and the version of the C library, such as "glibc 2.36", or "" for one without them."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError):
        # Windows has no confstr, and other C libraries do not know the name.
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".") if number.isdecimal())
