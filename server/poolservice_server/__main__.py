"""The `poolservice-server` command."""

import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec

from poolservice import __version__
from poolservice_server.glibc_tunables import restart_with_one_arena

_REQUIRED = ("torch", "pydantic_settings", "structlog", "prometheus_client", "grpc_reflection", "uvloop")
# The doctor itself says that the others are missing.
_DOCTOR_REQUIRED = ("pydantic_settings", "structlog")

_USAGE_ERROR = 2


def main() -> int:
    """Run the server until SIGTERM or SIGINT; return the exit status."""
    if sys.argv[1:2] == ["health"]:
        # First, because it must be fast. It needs nothing of the server's extra.
        from poolservice_server.grpc_adapter.health_command import main as health

        return health(sys.argv[2:])
    missing = [name for name in _REQUIRED if find_spec(name) is None]
    if missing:
        return _fail(
            f"the server needs {', '.join(missing)}; install poolservice with its server extra, in a clone of the "
            "repository with: pip install '.[server]'"
        )
    if is_doctor:
        from poolservice_server.doctor.command import main as doctor

        return doctor(sys.argv[2:])
    if sys.argv[1:] == ["--version"]:
        print(f"poolservice-server {__version__}")  # noqa: T201 - the command's output
        return 0
    if command in _COMMANDS:
        return int(import_module(_COMMANDS[command]).main(sys.argv[2:]))
    if command and not command.startswith("-"):
        suggestion = get_close_matches(command, _COMMANDS, n=1)
        hint = f"did you mean {suggestion[0]}?" if suggestion else f"the commands are {', '.join(_COMMANDS)}"
        return _fail(f"unknown command {command}; {hint} (poolservice-server --help lists the server's flags)")
    restart_with_one_arena()

    # Imported here because these modules import the required packages.
    from poolservice_server import launch, log
    from poolservice_server.settings import SettingsError, load

    try:
        launch.run(load(sys.argv[1:]))
    except SettingsError as error:
        log.report_failure(str(error))
        return _USAGE_ERROR
    except KeyboardInterrupt:
        # Ctrl-C before the server was ready. A ready server handles Ctrl-C itself.
        return 130
    return 0


def _fail(reason: str) -> int:
    print(f"poolservice-server: {reason}", file=sys.stderr)  # noqa: T201 - the command's output
    return _USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
