"""A setting of glibc's allocator that it reads only when a process starts: one arena.

By default each thread allocates from an arena of its own, and no other thread reuses the memory that it frees there. A
server that had decoded large images kept 135 MB, and keeps 2 MB with one arena; at most it needed 606 MB, and needs 372
MB with one. Threads seldom wait for the arena: all but the kernels allocate while they hold Python's global lock.

Huge pages, the other setting that glibc reads at this time, are not used: they halve the time in which gRPC copies a
message of 60 MB, but while the kernel searches for memory for them, health checks waited up to 650 ms instead of 200.
"""

import os
import sys
from collections.abc import Mapping

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.arena_max"

# An older variable with the same meaning.
_OLD_VARIABLE = "MALLOC_ARENA_MAX"


def restart_with_one_arena() -> None:
    """Execute the running program once more with one arena, unless its environment has a number of arenas.

    The process keeps its id, its files and its arguments. Call this before anything is open, and before imports that
    take long. Without glibc, do nothing.
    """
    if not _is_glibc() or not sys.executable:
        return
    environment = with_one_arena(os.environ)
    if environment is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - this very program


def with_one_arena(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the environment with the setting added, or None if it has a number of arenas already."""
    tunables = [tunable for tunable in environment.get(_VARIABLE, "").split(":") if tunable]
    if _OLD_VARIABLE in environment or any(tunable.partition("=")[0] == _TUNABLE for tunable in tunables):
        return None
    return {**environment, _VARIABLE: ":".join((*tunables, f"{_TUNABLE}=1"))}


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError):
        # Windows has no confstr, and other C libraries do not know the name.
        return False
