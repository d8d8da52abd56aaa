"""The `poolservice` command, assembled from its subcommands."""

import sys
from typing import Annotated

import typer

from poolservice import __version__
from poolservice_client._cli import bench, exit_errors, map_files, sdk_errors
from poolservice_client._cli import pool as pooling
from poolservice_client._cli.info_and_health import health, info
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
app.command(epilog=bench.EPILOG)(bench.bench)
app.command()(info)
app.command()(health)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


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
    `errors`.
    """
    try:
        app(prog_name="poolservice")
    except exit_errors.UsageError as error:
        exit_errors.report(error)
        sys.exit(exit_errors.USAGE)
    except exit_errors.CommandError as error:
        exit_errors.report(error)
        sys.exit(exit_errors.FAILED)
    except PoolError as error:
        exit_errors.report(sdk_errors.describe(error))
        sys.exit(exit_errors.USAGE if sdk_errors.is_usage_error(error) else exit_errors.FAILED)
    except OSError as error:
        exit_errors.report(f"{error.filename}: {error.strerror}" if error.filename else error)
        sys.exit(exit_errors.FAILED)
