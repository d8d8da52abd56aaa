"""Maps that are still open when the interpreter exits: they are closed while their threads still run.

After that, the interpreter stops all daemon threads where they are. Code that then joins one of them, or takes a lock
that one of them holds, waits for ever.
"""

import atexit
import weakref
from collections.abc import Generator
from typing import Any

_open: set["weakref.ref[Generator[Any, None, None]]"] = set()


def close_at_exit(results: Generator[Any, None, None]) -> Generator[Any, None, None]:
    """Return the generator of a map after registering it to be closed at exit, if it still exists and is open then."""
    _open.add(weakref.ref(results, _open.discard))
    return results


# `atexit` and not `threading._register_atexit`: it runs after all non-daemon threads have ended, so that a map in such
# a thread is completed.
@atexit.register
def _close_all() -> None:
    for reference in tuple(_open):
        results = reference()
        # A daemon thread may be inside the generator. It is stopped there, and nothing closes the generator later.
        if results is not None and not results.gi_running:  # type: ignore[attr-defined]
            results.close()
