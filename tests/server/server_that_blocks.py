"""Runs poolservice-server with faults that the real one should not have.

    FAULT=thread python tests/server/server_that_blocks.py FLAGS...

The environment variable FAULT is

thread   decoding an image never ends
loop     GetServerInfo blocks the event loop for ever
crash    decoding an image ends the process with a real segmentation fault, unless the folder FAULT_FOLDER has a file,
         which the crash creates

Worker processes import this file as well, so they have the same faults.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poolservice_server import images, server_info
from poolservice_server.__main__ import main


def wait_for_ever(*_arguments: Any, **_options: Any) -> Any:
    """Release the interpreter's lock and never return, as a long call of C code does."""
    print("blocked", file=sys.stderr, flush=True)
    threading.Event().wait()


def crash_once(decode: Callable[..., Any]) -> Callable[..., Any]:
    """Return `decode` with a segmentation fault at the first call in all processes."""

    def crash_or_decode(*arguments: Any, **options: Any) -> Any:
        try:
            (Path(os.environ["FAULT_FOLDER"]) / "crashed").touch(exist_ok=False)
        except FileExistsError:
            return decode(*arguments, **options)
        return ctypes.string_at(0)

    return crash_or_decode


faults: dict[str, Callable[[], None]] = {
    "thread": lambda: setattr(images, "decode_scanned", wait_for_ever),
    "loop": lambda: setattr(server_info, "responder", lambda *_arguments, **_options: wait_for_ever),
    "crash": lambda: setattr(images, "decode_scanned", crash_once(images.decode_scanned)),
}
faults[os.environ["FAULT"]]()
if __name__ == "__main__":
    sys.exit(main())
