"""The `poolservice-server` command."""

import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec

from poolservice import __version__
from poolservice_server.glibc_tunables import restart_with_one_arena

_REQUIRED = ("torch", "pydantic_settings", "structlog", "prometheus_client", "grpc_reflection", "uvloop")
# Of these commands, health needs nothing of the server's extra, and the doctor itself says what is missing.
_REQUIRED_BY = {"health": (), "doctor": ("pydantic_settings", "structlog")}

# The modules of the commands besides the server itself.
_COMMANDS = {
    "backbone": "poolservice_server.backbones.command.app",
    "doctor": "poolservice_server.doctor.command",
    "health": "poolservice_server.grpc_adapter.health_command",
    "ray": "poolservice_server.ray.command",
    "tune": "poolservice_server.tune.command",
}

_USAGE_ERROR = 2


def main() -> int:
    """Run the server until SIGTERM or SIGINT, or another command; return the exit status."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    missing = [name for name in _REQUIRED_BY.get(command, _REQUIRED) if find_spec(name) is None]
    if missing:
        return _fail(
            f"the server needs {', '.join(missing)}; install poolservice with its server extra, in a clone of the "
            "repository with: pip install '.[server]'"
        )
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
