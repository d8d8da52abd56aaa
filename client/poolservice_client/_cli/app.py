"""The command line of the client, put together."""

import sys
from typing import Annotated

import typer

from poolservice import __version__
from poolservice_client._cli import bench, error_messages, errors, map_files
from poolservice_client._cli import pool as pooling
from poolservice_client._cli.info import health, info
from poolservice_client._settings.credentials import CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE
from poolservice_client._settings.settings import TOKEN_VARIABLE
from poolservice_client.errors import PoolError

#: What `poolservice --help` ends with.
EPILOG = (
    "Exit statuses of every command: 0 done; 1 the service refused, failed or did not answer, or a file could not be "
    "read or written; 2 the command was written wrongly; 130 interrupted. health adds 3: nobody answered.\n\n"
    f"TLS and the bearer token come from the environment: {CA_VARIABLE}, {CERTIFICATE_VARIABLE} and {KEY_VARIABLE} "
    f"name PEM files; {TOKEN_VARIABLE} is the token."
)

app = typer.Typer(
    name="poolservice",
    help="Pool pictures and arrays through a running poolservice.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command(epilog=pooling.EPILOG)(pooling.pool)
app.command("map", epilog=map_files.EPILOG)(map_files.map_files)
app.command(epilog=bench.EPILOG)(bench.bench)
app.command()(info)
app.command()(health)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of the command itself; --version acts as it is read."""


def main() -> None:
    """Runs the command; a mistake ends it with one sentence on stderr, never with a traceback.

    Exit statuses: 0 done; 1 the service refused or failed, or a file could not be read or written; 2 the command was
    written wrongly; 130 interrupted. `poolservice health` adds a 3.
    """
    try:
        app(prog_name="poolservice")
    except errors.Usage as error:
        errors.say(error)
        sys.exit(errors.USAGE)
    except errors.Failure as error:
        errors.say(error)
        sys.exit(errors.FAILED)
    except PoolError as error:
        errors.say(error_messages.sentence(error))
        sys.exit(errors.USAGE if error_messages.is_usage(error) else errors.FAILED)
    except OSError as error:
        errors.say(f"{error.filename}: {error.strerror}" if error.filename else error)
        sys.exit(errors.FAILED)
