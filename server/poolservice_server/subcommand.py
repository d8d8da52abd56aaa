"""What the commands `doctor` and `tune` share: flags of the server among their own, and errors of one sentence."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from poolservice_server.backbones.folder_files import printable
from poolservice_server.settings import Settings, load

#: Exit statuses.
USAGE_ERROR, INTERRUPTED = 2, 130

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


def load_settings(context: typer.Context, flags: Sequence[str]) -> Settings:
    """Return the settings of the flags that are not the subcommand's own.

    Raises:
        SettingsError: a setting is wrong or unknown. The suggestion for an unknown flag may be one of the subcommand's.
    """
    own = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
    return load(flags, context.command_path, own)


def run(app: typer.Typer, name: str, arguments: Sequence[str], statuses: Mapping[type[Exception], int]) -> int:
    """Run a subcommand; return its exit status.

    Args:
        app: its command line.
        name: its name.
        arguments: the arguments behind its name.
        statuses: the exit status of each expected error, whose message is one sentence.
    """
    try:
        return app(list(arguments), prog_name=f"poolservice-server {name}", standalone_mode=False) or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except _ClickException as error:
        return _report(name, _click_sentence(name, error), USAGE_ERROR)
    except tuple(statuses) as error:
        return _report(name, str(error), statuses[type(error)])


def _report(name: str, reason: str, status: int) -> int:
    # What a file or a caller wrote may have control characters.
    print(f"poolservice-server {name}: {printable(reason)}", file=sys.stderr)  # noqa: T201 - the command's output
    return status


def _click_sentence(name: str, error: Any) -> str:
    message = error.format_message().rstrip(".")
    return f"{message[:1].lower()}{message[1:]} (poolservice-server {name} --help lists the flags)"
