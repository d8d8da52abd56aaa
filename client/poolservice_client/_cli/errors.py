"""How a command ends that cannot do what it was asked, and the exit status that says so to a script."""

import typer

#: It went wrong: the service refused it or failed, or a file could not be read or written.
FAILED = 1
#: The command was written wrongly; click's own status for it.
USAGE = 2
#: `poolservice health`: nobody answered.
UNREACHABLE = 3
#: Somebody pressed Ctrl-C; a shell's own status for it.
INTERRUPTED = 130


class Usage(Exception):
    """The command was written wrongly; says how, and what would be right, in one sentence."""


class Failure(Exception):
    """What was asked cannot be done here; says why, and what would help, in one sentence."""


def say(error: object) -> None:
    """One sentence on stderr, where it does not mix with results."""
    typer.echo(f"poolservice: {error}", err=True)
