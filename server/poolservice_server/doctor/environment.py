"""The environment variables that change how the server or its libraries run."""

from collections.abc import Iterator

from poolservice_server.doctor.finding import Finding, ok, warning
from poolservice_server.doctor.machine import Machine
from poolservice_server.settings import Settings, unknown_variables

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXIES = ("no_grpc_proxy", "no_proxy")

# The variables that make every server slower, and in what way.
_SLOW = {
    "GRPC_TRACE": "makes gRPC log its internals",
    "GRPC_VERBOSITY": "makes gRPC log its internals",
    "GRPC_ENABLE_FORK_SUPPORT": "makes gRPC count its threads for forks",
    "PYTHONASYNCIODEBUG": "checks each step of the event loop",
    "PYTHONDEVMODE": "turns on Python's development mode",
    "PYTHONMALLOC": "replaces Python's allocator",
    "PYTHONPROFILEIMPORTTIME": "logs each import",
    "PYTHONTRACEMALLOC": "records each allocation",
    "CUDA_LAUNCH_BLOCKING": "waits for each kernel of the GPU",
}
# Values of them that change nothing.
_HARMLESS = {"", "0", "NONE", "none", "ERROR", "error", "false"}


def check_environment(_settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Check the variables of the server, of proxies and of libraries. Values are not shown, as some have passwords."""
    healthy = True
    for sentence in unknown_variables(Settings.model_fields):
        healthy = False
        yield warning("environment", sentence)
    for name, effect in _SLOW.items():
        if machine.environment.get(name, "") not in _HARMLESS:
            healthy = False
            yield warning("environment", f"the variable {name} {effect}, which costs throughput; unset it")
    proxies = [name for name in _PROXIES if machine.environment.get(name)]
    if proxies and not any(machine.environment.get(name) for name in _NO_PROXIES):
        healthy = False
        yield warning(
            "environment",
            f"the variable {proxies[0]} names a proxy: plain gRPC clients on this machine reach even 127.0.0.1 through "
            "it (the SDK does not); set no_grpc_proxy=127.0.0.1,localhost",
        )
    if machine.environment.get("GRPC_EXPERIMENTS"):
        healthy = False
        yield warning(
            "environment",
            "the variable GRPC_EXPERIMENTS is set, so the server leaves out its own choice, which is worth an eighth "
            "of the throughput; unset it",
        )
    if healthy:
        yield ok("environment", "no variable of the environment is unknown or makes the server slower")
