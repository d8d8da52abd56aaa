"""The `poolservice-server` command."""

import sys
from importlib.util import find_spec

from poolservice import __version__
from poolservice_server.grpc_adapter import environment

_NEEDED = ("torch", "pydantic_settings", "structlog", "prometheus_client", "grpc_reflection", "uvloop")


_PLAIN = (
    "poolservice-server: this grpcio is not the one that several accepts were written for, serving with one a method"
)


_SLOWER = (
    "poolservice-server: this grpcio is not one whose way of reading sockets is known; left as it is, which costs an "
    "eighth of the calls"
)


def main() -> int:
    """Start the server and serve until it is told to stop; the exit status says whether that went well."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        return _fail(f"the server needs {', '.join(missing)}; install it with: pip install 'poolservice[server]'")
    if sys.argv[1:] == ["--version"]:
        print(f"poolservice-server {__version__}")  # noqa: T201 - a command's own output
        return 0

    if not environment.read_where_completions_are_awaited():
        print(_SLOWER, file=sys.stderr)  # noqa: T201 - a command's own output
    # Only now: these import grpc and what was just looked for; torch comes last, since it takes seconds.
    from poolservice_server import listen_check
    from poolservice_server.grpc_adapter import multi_accept
    from poolservice_server.settings import SettingsError, load

    try:
        settings = load(sys.argv[1:])
        listen_check.check(settings)
        if not settings.plain_server and not multi_accept.supported():
            print(_PLAIN, file=sys.stderr)  # noqa: T201 - a command's own output
            settings = settings.model_copy(update={"plain_server": True})
        if settings.supervised:
            from poolservice_server.supervisor import run
        else:
            from poolservice_server.process import run

        run(settings)
    except SettingsError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        # Before it serves; once it does, Ctrl-C stops it in good order.
        return 130
    return 0


def _fail(reason: str) -> int:
    print(f"poolservice-server: {reason}", file=sys.stderr)  # noqa: T201 - a command's own output
    return 2


if __name__ == "__main__":
    sys.exit(main())
