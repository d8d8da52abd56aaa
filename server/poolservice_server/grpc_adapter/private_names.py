"""The table of the private names of grpcio that this package uses, and the check that decides whether they can be used.

Any release of grpcio may rename or change a private name. The server therefore calls `missing` before it imports
`multi_accept_server`: if the installed grpcio differs from the table, the plain grpc.aio server serves instead.

To use another private name, add a row; a test compares the table with the source of this package.
"""

import inspect
import types
from importlib import import_module
from typing import Any, Literal, NamedTuple, get_args

#: The first release of grpcio that has all names. Before it, grpc.aio has no registered methods.
FIRST_VERSION = (1, 84)

#: The releases of grpcio that the tests ran with: the oldest supported one (plain server), and those with all names.
TESTED_VERSIONS = ("1.71.2", "1.84.0", "1.85.3")

User = Literal["multi_accept_server", "merging_event_loop"]

#: All users of private names.
USERS: tuple[User, ...] = get_args(User)

_CYGRPC = "grpc._cython.cygrpc"
_SERVER = "grpc.aio._server"


class PrivateName(NamedTuple):
    """One private name of grpcio.

    Attributes:
        module: the module of grpcio that has it.
        name: the name in that module; with a dot, an attribute of a class.
        parameters: the parameters that callers or overriding methods rely on; None for a name that is not called.
        user: the module of this package that uses the name.
        reason: why the name is needed.
        upstream: the upstream issue that asks for a public replacement.
    """

    module: str
    name: str
    parameters: tuple[str, ...] | None
    user: User
    reason: str
    upstream: str = "none known"


TABLE = (
    PrivateName(
        _SERVER,
        "Server",
        (
            "self",
            "thread_pool",
            "generic_handlers",
            "interceptors",
            "options",
            "maximum_concurrent_rpcs",
            "compression",
        ),
        "multi_accept_server",
        "base class: the public methods of a grpc.aio server",
    ),
    PrivateName(_SERVER, "Server._loop", None, "multi_accept_server", "set in place of the base class's constructor"),
    PrivateName(_SERVER, "Server._server", None, "multi_accept_server", "set to our own core server"),
    PrivateName(_CYGRPC, "get_working_loop", (), "multi_accept_server", "the event loop that the core server must use"),
    PrivateName(
        _CYGRPC,
        "AioServer",
        ("loop", "thread_pool", "generic_handlers", "interceptors", "options", "maximum_concurrent_rpcs"),
        "multi_accept_server",
        "base class of our own core server",
    ),
    PrivateName(
        _CYGRPC,
        "AioServer.add_registered_method_handlers",
        ("self", "method_handlers"),
        "multi_accept_server",
        "overridden to find the handler of an accepted call without grpc.aio's lookup",
    ),
    PrivateName(
        _CYGRPC,
        "AioServer._make_request_call_future",
        ("self", "method_bytes"),
        "multi_accept_server",
        "overridden to start several accepts per method; the main loop calls it once per method",
    ),
    PrivateName(
        _CYGRPC,
        "AioServer._request_registered_call",
        ("self", "method"),
        "multi_accept_server",
        "accepts a call of a registered method",
    ),
    PrivateName(
        _CYGRPC, "AioServer._request_call", ("self",), "multi_accept_server", "accepts a call of an unregistered method"
    ),
    PrivateName(
        _CYGRPC,
        "_ServicerContext",
        ("rpc_state", "request_deserializer", "response_serializer", "loop"),
        "multi_accept_server",
        "the context of a call with one response, which reads its messages",
    ),
    PrivateName(
        _CYGRPC,
        "execute_batch",
        ("grpc_call_wrapper", "operations", "loop"),
        "multi_accept_server",
        "sends a response and its status in one batch of operations",
    ),
    PrivateName(
        _CYGRPC,
        "SendInitialMetadataOperation",
        ("metadata", "flags"),
        "multi_accept_server",
        "the first operation of a response",
    ),
    PrivateName(
        _CYGRPC, "SendMessageOperation", ("message", "flags"), "multi_accept_server", "the message of a response"
    ),
    PrivateName(
        _CYGRPC,
        "SendStatusFromServerOperation",
        ("trailing_metadata", "code", "details", "flags"),
        "multi_accept_server",
        "the last operation of a response",
    ),
    PrivateName(_CYGRPC, "StatusCode", None, "multi_accept_server", "has the status code of a successful call"),
    PrivateName(
        _CYGRPC,
        "_handle_rpc",
        ("method_name", "method_resolver", "interceptors", "rpc_state", "loop", "concurrency_exceeded"),
        "multi_accept_server",
        "handles a streaming call and a call of an unknown method",
    ),
    PrivateName(
        _CYGRPC,
        "_MethodResolver",
        ("generic_handlers", "registered_handlers"),
        "multi_accept_server",
        "the method_resolver of _handle_rpc",
    ),
    PrivateName(
        _CYGRPC,
        "_handle_exceptions",
        ("rpc_state", "rpc_coro", "loop", "method_name"),
        "multi_accept_server",
        "ends a failed call with a status and logs unexpected errors",
    ),
    PrivateName(
        _CYGRPC,
        "_handle_cancellation_from_core",
        ("rpc_task", "rpc_state", "loop"),
        "multi_accept_server",
        "cancels the task of a call whose caller has cancelled; started late, to save its cost for short calls",
    ),
    PrivateName(
        _CYGRPC,
        "ExecuteBatchError",
        None,
        "multi_accept_server",
        "raised when a response cannot be sent to a lost caller",
    ),
    PrivateName(
        _CYGRPC,
        "PollerCompletionQueue",
        None,
        "merging_event_loop",
        "its type name identifies gRPC's reader, whose wake-ups the event loop merges",
    ),
)


# Arguments for the classes that show no signature.
_CONSTRUCTED: dict[str, tuple[Any, ...]] = {
    "_MethodResolver": ([], {}),
    "_ServicerContext": (None, None, None, None),
    "SendInitialMetadataOperation": (None, 0),
    "SendMessageOperation": (b"", 0),
    "SendStatusFromServerOperation": ((), 0, "", 0),
}


def missing(user: User) -> list[str]:
    """Compare the installed grpcio with the rows of one user.

    Returns:
        One phrase per row that differs, such as "grpc._cython.cygrpc has no _handle_rpc"; empty if all rows match.
    """
    return [problem for row in TABLE if row.user == user and (problem := _difference(row))]


def _difference(row: PrivateName) -> str:
    try:
        parameters = _parameters(row)
    except Exception:  # noqa: BLE001 - whatever an unknown grpcio raises, the name cannot be used
        return f"{row.module} has no {row.name}"
    if row.parameters is not None and parameters != row.parameters:
        return f"{row.module}.{row.name} does not take ({', '.join(row.parameters)})"
    return ""


def _parameters(row: PrivateName) -> tuple[str, ...] | None:
    """Return the parameters of the installed name, or None if it is not called. Any exception means: no such name."""
    if row.name in ("Server._loop", "Server._server"):
        # The constructor sets these attributes, so the class does not show them.
        getattr(_construct_server().server, row.name.removeprefix("Server."))
        return None
    found: Any = import_module(row.module)
    for part in row.name.split("."):
        found = getattr(found, part)
    if row.parameters is None:
        return None
    if row.name == "AioServer":
        return _construct_server().core_arguments
    if row.name in _CONSTRUCTED:
        # The class shows no signature, but constructing it has no side effects.
        found(*_CONSTRUCTED[row.name])
        return row.parameters
    return tuple(inspect.signature(found.__init__ if inspect.isclass(found) else found).parameters)


class _Construction(NamedTuple):
    server: object
    core_arguments: tuple[str, ...]


class _Argument(tuple[()]):
    """An empty tuple that carries the name of the parameter that it stands for."""

    name = "options"


def _construct_server() -> _Construction:
    """Run the constructor of grpc.aio's server with a recorder in place of the core, which would start a server.

    `AioServer` shows no signature. This constructor is the only place in grpcio that calls it.
    """
    constructor = import_module(_SERVER).Server.__init__
    core_arguments: list[tuple[Any, ...]] = []

    def named(name: str) -> _Argument:
        argument = _Argument()
        argument.name = name
        return argument

    recorder = types.SimpleNamespace(
        get_working_loop=lambda: named("loop"), AioServer=lambda *arguments: core_arguments.append(arguments)
    )
    server = types.SimpleNamespace()
    run = types.FunctionType(constructor.__code__, {**constructor.__globals__, "cygrpc": recorder})
    run(server, *map(named, list(inspect.signature(constructor).parameters)[1:]))
    (arguments,) = core_arguments
    # grpcio adds to the options and passes a new tuple, which has no name.
    return _Construction(server, tuple(getattr(argument, "name", "options") for argument in arguments))
