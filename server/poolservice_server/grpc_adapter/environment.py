"""How gRPC's core reads the sockets: on the thread that waits for completions, and much at a time.

By default threads of gRPC's event engine read them and hand what they read to the one that waits, which costs a
server of small cores a switch between threads for every message. Without, one carries an eighth more calls and spends
a sixth less of the processor on each (tests/bench/calls.py, the tuned echo).

gRPC lets its parts be chosen by an environment variable that its core reads as it is imported.

A large message is read in pieces, each of which is appended to those before: in pieces of 64 KiB rather than 8 the
tuned echo carries 4 to 7 % more messages of 602 kB; in larger ones no more than that.
"""

import os
from importlib.metadata import version

#: For gRPC's server.
OPTIONS = (("grpc.experimental.tcp_read_chunk_size", 64 * 1024),)

_VARIABLE = "GRPC_EXPERIMENTS"
_CHOICE = "-event_engine_listener"

# Of grpcio, the first and the last minor version that is known to have the choice; another would complain.
_KNOWN = ((1, 71), (1, 85))


def read_where_completions_are_awaited() -> bool:
    """Choose so, before grpc is imported.

    Returns:
        False for an unknown grpcio, which is left as it is. Where the operator has set the variable, that is what
        was chosen.
    """
    if _VARIABLE in os.environ:
        return True
    major, minor = version("grpcio").split(".")[:2]
    first, last = _KNOWN
    known = first <= (int(major), int(minor)) <= last
    if known:
        os.environ[_VARIABLE] = _CHOICE
    return known
