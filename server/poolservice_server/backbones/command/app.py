"""The command `poolservice-server backbone`, assembled from its subcommands."""

import sys
from collections.abc import Sequence
from typing import Any

import typer

from poolservice_server.backbones.command.check_command import check
from poolservice_server.backbones.command.errors import CheckFailed
from poolservice_server.backbones.command.import_command import import_
from poolservice_server.backbones.command.import_head_command import import_head
from poolservice_server.backbones.command.list_command import list_
from poolservice_server.backbones.engines.engine import EngineError
from poolservice_server.backbones.folder import BrokenFolder
from poolservice_server.backbones.folder_files import printable
from poolservice_server.backbones.importing.errors import ImportFailed

_FAILED, _USAGE_ERROR, _INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="backbone",
    help="Make, check and list the folders of backbones, which `poolservice-server --backbone DIR` serves.",
    epilog="Exit statuses: 0 success; 1 check found a difference or a wrong folder; 2 a file or a flag is wrong.",
    no_args_is_help=True,
    # Plain help wraps at any width; rich's panels cut options and defaults in narrow terminals.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("import")(import_)
app.command("import-head")(import_head)
app.command()(check)
app.command("list")(list_)

# click's ClickException. Recent releases of typer contain click and older ones depend on it, so it cannot be imported
# from the same place in both.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit status. An error is one sentence on stderr."""
    try:
        return app(list(arguments), prog_name="poolservice-server backbone", standalone_mode=False) or 0
    except ImportFailed as error:
        return _report(str(error), _USAGE_ERROR)
    except (BrokenFolder, CheckFailed, EngineError) as error:
        return _report(str(error), _FAILED)
    except MemoryError:
        return _report("out of memory", _FAILED)
    except OSError as error:
        return _report(f"{error.filename or 'standard output'}: {error.strerror or error}", _FAILED)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except _ClickException as error:
        return _report_click_error(error)


def _report(reason: str, status: int) -> int:
    # A downloaded file may contain names with control characters.
    print(f"poolservice-server backbone: {printable(reason)}", file=sys.stderr)  # noqa: T201 - the command's output
    return status


def _report_click_error(error: Any) -> int:
    # The error of a command without arguments has the whole help as its message.
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    if possible := getattr(error, "possibilities", None):
        return _report(f"unknown flag {error.option_name}; did you mean {sorted(possible)[0]}?", _USAGE_ERROR)
    message = error.format_message().rstrip(".")
    return _report(f"{message[:1].lower()}{message[1:]} (--help lists the flags)", _USAGE_ERROR)
