"""The environment variable that selects parts of gRPC's core; it must be set before grpc is imported.

By default, threads of gRPC's event engine read the sockets and pass the data to the thread that waits for completions.
On a machine with few cores that costs a switch between threads per message. Without the event engine's listener the
waiting thread reads the sockets itself: the tuned echo server then has an eighth more throughput and spends a sixth
less CPU per call (tests/bench/calls.py).
"""

import os
from importlib.metadata import version

_VARIABLE = "GRPC_EXPERIMENTS"
_VALUE = "-event_engine_listener"

# The first and the last minor version of grpcio that are known to have this experiment. gRPC's core prints an error
# for an experiment that it does not know.
_FIRST, _LAST = (1, 71), (1, 85)


def disable_event_engine_listener() -> bool:
    """Let the thread that waits for completions read the sockets, unless GRPC_EXPERIMENTS is set already.

    Returns:
        False if the installed grpcio is not known to have the experiment. The environment is then left as it is.
    """
    if _VARIABLE in os.environ:
        return True
    major, minor = version("grpcio").split(".")[:2]
    if not _FIRST <= (int(major), int(minor)) <= _LAST:
        return False
    os.environ[_VARIABLE] = _VALUE
    return True
