"""What the commands `doctor` and `tune` share: flags of the server among their own, and errors of one sentence."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from poolservice_server.backbones.folder_files import printable

_USAGE_ERROR, _INTERRUPTED = 2, 130

# click's ClickException. Recent releases of typer contain click and older ones depend on it, so it cannot be imported
# from the same place in both.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]


def make_app(name: str, command: Callable[..., None], *, epilog: str) -> typer.Typer:
    """Return the command line of one subcommand. Flags that are not its own go to the argument that takes settings."""
    app = typer.Typer(
        name=name,
        # Plain help wraps at any width; rich's panels cut options and defaults in narrow terminals.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.command(name, epilog=epilog, context_settings={"ignore_unknown_options": True})(command)
    return app


def run(app: typer.Typer, name: str, arguments: Sequence[str], *, errors: tuple[type[Exception], ...]) -> int:
    """Run a subcommand; return its exit status.

    Args:
        app: its command line.
        name: its name.
        arguments: the arguments behind its name.
        errors: the errors of wrong usage, whose message is one sentence.
    """
    try:
        return app(list(arguments), prog_name=f"poolservice-server {name}", standalone_mode=False) or 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    except _ClickException as error:
        return report(name, _click_sentence(error))
    except errors as error:
        return report(name, str(error))


def report(name: str, reason: str, status: int = _USAGE_ERROR) -> int:
    """Print an error, with control characters escaped; return the exit status."""
    print(f"poolservice-server {name}: {printable(reason)}", file=sys.stderr)  # noqa: T201 - the command's output
    return status


def _click_sentence(error: Any) -> str:
    message = error.format_message().rstrip(".")
    return f"{message[:1].lower()}{message[1:]} (--help lists the flags)"
