"""The exceptions that end a command, the exit statuses that scripts see, and messages on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from poolservice_client._cli import standard_streams
from poolservice_client._cli.message_text import escape

#: The command failed: the service refused or failed, or a file could not be read or written.
FAILED = 1
#: The command line is wrong. click uses the same status.
USAGE = 2
#: `poolservice health` only: no server responded.
UNREACHABLE = 3
#: The user pressed Ctrl-C. Shells use the same status.
INTERRUPTED = 130


class UsageError(Exception):
    """The command line is wrong. The message is one sentence: what is wrong, and what would be right."""


class CommandError(Exception):
    """The command failed. The message is one sentence: why, and what would help."""


@contextmanager
def naming(name: object) -> Iterator[None]:
    """Add the name of the file that the block reads or writes to its OSErrors: those of `write` do not have it.

    Raises:
        OSError: the block raised one.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(name)) from None


def report(error: object) -> None:
    """Print one line on stderr, so that it does not mix with the results on stdout; untrusted text in it is escaped."""
    print_line(f"poolservice: {error}")


def print_line(text: str) -> None:
    """Print one line on stderr; untrusted text in it is escaped."""
    try:
        typer.echo(escape(text), err=True)
    except OSError:
        # Standard error is closed or full, so there is nowhere to report that. The exit status still says it.
        standard_streams.discard(sys.stderr)
