"""gRPC's channelz service: the state of the server's sockets and channels, for people who debug a connection."""

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

import grpc
import grpc.aio

from poolservice_server.error_status import Unauthenticated
from poolservice_server.settings import SettingsError

_Context = grpc.aio.ServicerContext[Any, Any]
_Method = Callable[[Any, _Context], Awaitable[Any]]


def add_channelz(server: grpc.aio.Server, check_token: Callable[[_Context], object]) -> str:
    """Add the service to `server`, which must not have started yet, and return its name.

    Args:
        server: a server whose options enable channelz.
        check_token: checks the token of a call, and raises Unauthenticated.

    Raises:
        SettingsError: the package of the service is not installed.
    """
    if find_spec("grpc_channelz") is None:
        raise SettingsError(
            "--channelz needs the package grpcio-channelz: install poolservice with its channelz extra, in a clone of "
            "the repository with: pip install '.[server,channelz]'"
        )
    from grpc_channelz.v1 import channelz, channelz_pb2, channelz_pb2_grpc

    servicer = channelz.aio.ChannelzServicer()
    service = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"]
    for method in service.methods:
        setattr(servicer, method.name, _with_token(getattr(servicer, method.name), check_token))
    channelz_pb2_grpc.add_ChannelzServicer_to_server(servicer, server)
    name: str = service.full_name
    return name


def _with_token(method: _Method, check_token: Callable[[_Context], object]) -> _Method:
    async def checked(request: Any, context: _Context) -> Any:
        try:
            check_token(context)
        except Unauthenticated as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        # The servicer returns None for an error, whose status it has set.
        return await method(request, context)

    return checked
