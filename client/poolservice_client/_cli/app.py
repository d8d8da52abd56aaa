"""The `poolservice` command, assembled from its subcommands."""

import sys
import warnings
from typing import Annotated, Any

import typer

from poolservice import __version__
from poolservice_client._cli import bench, embed, exit_errors, explain, gallery, map_files, sdk_errors, standard_streams
from poolservice_client._cli import pool as pooling
from poolservice_client._cli.info_and_health import health, info
from poolservice_client._cli.message_text import escape
from poolservice_client._settings.credentials import CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE
from poolservice_client._settings.settings import TOKEN_VARIABLE
from poolservice_client.errors import PoolError

#: The last paragraphs of `poolservice --help`.
EPILOG = (
    "Exit statuses of every command: 0 success; 1 the service refused, failed or did not respond, or a file could not "
    "be read or written; 2 the command line is wrong; 130 interrupted. health also has 3: no server responded.\n\n"
    f"Environment variables set TLS and the bearer token: {CA_VARIABLE}, {CERTIFICATE_VARIABLE} and {KEY_VARIABLE} "
    f"name PEM files; {TOKEN_VARIABLE} is the token."
)

app = typer.Typer(
    name="poolservice",
    help="Pool images and arrays with a running poolservice server.",
    epilog=EPILOG,
    no_args_is_help=True,
    # Plain help wraps at any width; rich's panels cut options and defaults in narrow terminals.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command(epilog=pooling.EPILOG)(pooling.pool)
app.command("map", epilog=map_files.EPILOG)(map_files.map_files)
app.command(epilog=embed.EPILOG)(embed.embed)
app.command(epilog=explain.EPILOG)(explain.explain)
app.command(epilog=gallery.EPILOG)(gallery.gallery)
app.command(epilog=bench.EPILOG)(bench.bench)
app.command()(info)
app.command()(health)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


# click's ClickException. Recent releases of typer contain click and older ones depend on it, so it cannot be imported
# from the same place in both.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Declare the options that precede a subcommand; typer calls `_print_version` itself."""


def main() -> None:
    """Run the command line.

    An error ends the process with one sentence on stderr, never with a traceback. The exit statuses are those of
    `exit_errors`.
    """
    standard_streams.prepare()
    warnings.showwarning = _report_warning
    status = _run()
    if error := standard_streams.flush_output():
        _report_os_error(error)
        status = status or exit_errors.FAILED
    sys.exit(status)


def _report_warning(message: Warning | str, *_source: object, **_keywords: object) -> None:
    """Print a warning of the SDK in the command's terms, without the line of code that caused it."""
    exit_errors.report(sdk_errors.translate(str(message)))


def _run() -> int:
    """Run the command and report its error; return the exit status."""
    try:
        return app(prog_name="poolservice", standalone_mode=False) or 0
    except exit_errors.UsageError as error:
        exit_errors.report(error)
        return exit_errors.USAGE
    except exit_errors.CommandError as error:
        exit_errors.report(error)
    except PoolError as error:
        exit_errors.report(sdk_errors.describe(error))
        if sdk_errors.is_usage_error(error):
            return exit_errors.USAGE
    except UnicodeEncodeError:
        # The error is not printed, because its text may be a token.
        exit_errors.report("an address, a token or another setting has bytes that are not UTF-8")
        return exit_errors.USAGE
    except MemoryError:
        exit_errors.report("out of memory; give a smaller input")
    except KeyboardInterrupt:
        return exit_errors.INTERRUPTED
    except OSError as error:
        _report_os_error(error)
    except _ClickException as error:
        return _report_click_error(error)
    return exit_errors.FAILED


def _report_os_error(error: OSError) -> None:
    """Report the error with its file. An error without one is about standard output, as `naming` names all others."""
    if error.filename is not None:
        exit_errors.report(sdk_errors.describe_os_error(error))
    elif not isinstance(error, BrokenPipeError):
        # A broken pipe is not reported: the reader, such as head, has read enough.
        exit_errors.report(f"standard output: {error.strerror}")


def _report_click_error(error: Any) -> int:
    """Print click's error and usage on stderr; return the exit status."""
    # The error of a command without arguments has the whole help as its message, which must keep its lines.
    if type(error).__name__ != "NoArgsIsHelpError":
        error.message = escape(error.message)
    error.show()
    return int(error.exit_code)
