"""Standard input, output and error of the command, which may be closed, full, or of a narrow encoding."""

import io
import os
import sys
from typing import TextIO


def prepare() -> None:
    """Make the standard streams safe to use, whatever the process inherited.

    A closed stream is replaced by the null device. Otherwise the next file that is opened would get its descriptor, and
    any text that a library prints would be written to that file. Characters that a stream's encoding lacks are escaped.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free descriptor is this one.
            os.open(os.devnull, os.O_RDWR)
    # Python sets a stream to None if its descriptor was closed when the process started.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open as long as the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> OSError | None:
    """Flush standard output. If that fails, discard the rest of the output and return the error."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        return error
    return None


def discard(stream: TextIO) -> None:
    """Redirect a stream that failed to the null device, so that Python does not report the failure again at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
