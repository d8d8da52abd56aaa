"""A grpc.aio server with several accepts armed for each method.

grpc.aio keeps one accept armed a method and arms the next only on its next turn of the loop, so under load each
wake-up of the loop brings one call. With several armed, one wake-up brings several: the calls gather into batches
and the loop's own cost is shared. It also closes a hole: a call whose path is not UTF-8 ends a plain grpc.aio
server, because the path is decoded in its main loop; here a path that no method has is never decoded.

All that this leans on inside grpcio is private, so it is checked (`supported`), and `server` gives the plain
server where it is missing; that one may be ended by a caller, and `app` then serves again.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import grpc
import grpc.aio
import structlog
from grpc._cython import cygrpc
from grpc.aio import _server

_log = structlog.get_logger(__name__)

#: Four give most of the gain, sixteen no more than eight.
ACCEPTS_PER_METHOD = 8

_HANDLE_RPC = ("method_name", "method_resolver", "interceptors", "rpc_state", "loop", "concurrency_exceeded")


def supported() -> bool:
    """Whether the installed grpcio has what this module needs, with the arguments that it passes."""
    server = getattr(cygrpc, "AioServer", None)
    handle_rpc = getattr(cygrpc, "_handle_rpc", None)
    return (
        server is not None
        and all(
            hasattr(server, name) for name in ("_make_request_call_future", "_request_registered_call", "_request_call")
        )
        and all(hasattr(cygrpc, name) for name in ("_MethodResolver", "_schedule_rpc_coro", "_RequestCallError"))
        and handle_rpc is not None
        and tuple(inspect.signature(handle_rpc).parameters) == _HANDLE_RPC
    )


def server(options: Sequence[tuple[str, Any]]) -> grpc.aio.Server:
    """A server with several accepts a method; a plain grpc.aio one where the installed grpcio is not as expected."""
    if supported():
        return Server(options)  # type: ignore[return-value] # its base is the class behind the public name
    _log.warning("this grpcio is not the one that several accepts were written for, serving with one a method")
    return grpc.aio.server(options=options)


class Server(_server.Server):
    """A `grpc.aio.Server` with `ACCEPTS_PER_METHOD` accepts armed for each registered method.

    Only registered methods are served: generic handlers are never asked. What no method has is answered with
    UNIMPLEMENTED.
    """

    def __init__(self, options: Sequence[tuple[str, Any]]) -> None:
        # The base class would make a plain core server here, which could not be taken back.
        self._loop = cygrpc.get_working_loop()
        self._server = _AioServer(self._loop, None, (), (), tuple(options), None)


class _AioServer(cygrpc.AioServer):  # type: ignore[misc] # a class of the extension module, without types
    def __init__(self, loop: asyncio.AbstractEventLoop, *arguments: Any) -> None:
        super().__init__(loop, *arguments)
        self._own_loop = loop
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._accepting: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()

    def add_registered_method_handlers(self, method_handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        super().add_registered_method_handlers(method_handlers)
        self._handlers.update(method_handlers)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[None]:
        """Arm the accepts of a method, or of unknown methods for None.

        The main loop calls this once a method and waits for what comes back, which therefore ends only when the
        server stops accepting.
        """
        stopped = self._own_loop.create_future()
        if method is None:
            name, resolver = "", cygrpc._MethodResolver([], {"": _unknown_method(self._handlers)})
            accept: Callable[[], Awaitable[Any]] = self._request_call
            count = 1
        else:
            name, resolver = method.decode(), cygrpc._MethodResolver([], self._handlers)
            accept = lambda: self._request_registered_call(method)  # noqa: E731 - one name, two forms
            count = ACCEPTS_PER_METHOD
        for _ in range(count):
            task = self._own_loop.create_task(self._accept(accept, name, resolver, stopped))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)
        return stopped

    async def _accept(
        self, accept: Callable[[], Awaitable[Any]], name: str, resolver: Any, stopped: asyncio.Future[None]
    ) -> None:
        try:
            while True:
                call = await accept()
                rpc = cygrpc._handle_rpc(name, resolver, (), call, self._own_loop, False)
                # Listens for the caller's leaving, and cancels the handler when it does.
                self._start(cygrpc._schedule_rpc_coro(rpc, call, self._own_loop, name))
        except Exception as error:  # noqa: BLE001 - whatever ends an accept ends the server, in the main loop's hands
            if not stopped.done():
                stopped.set_exception(error)

    def _start(self, call: Coroutine[Any, Any, None]) -> None:
        task = self._own_loop.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)


def _unknown_method(handlers: dict[str, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """Answers any call, of any kind, that no such method is here."""
    known = ", ".join(sorted(name for name in handlers if name.startswith("/poolservice.")))

    async def refuse(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no such method; this server has {known}")

    return grpc.stream_stream_rpc_method_handler(refuse)
