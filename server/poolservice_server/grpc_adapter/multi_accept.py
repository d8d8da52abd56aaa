"""A grpc.aio server with several accepts armed for each method.

grpc.aio keeps one accept armed a method and arms the next only on its next turn of the loop, so under load each
wake-up of the loop brings one call. With several armed, one wake-up brings several: the calls gather into batches
and the loop's own cost is shared. It also closes a hole: a call whose path is not UTF-8 ends a plain grpc.aio
server, because the path is decoded in its main loop; here a path that no method has is never decoded.

Of the four operations that a call costs in gRPC's core, one only waits for its caller to leave. Most calls are over
before anybody could: it is started for those that are still here after some milliseconds.

All that this leans on inside grpcio is private, so it is checked at start (`supported`). Where it is missing the
plain server serves, under a supervisor, since a caller may end it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc._cython import cygrpc
from grpc.aio import _server

from poolservice_server.grpc_adapter import event_loop

#: Four give most of the gain, sixteen no more than eight.
ACCEPTS_PER_METHOD = 8

# A call is listened to after one to two times this. A caller who leaves sooner leaves a call that is about to end.
_LISTEN_AFTER_SECONDS = 0.02

# What is called of grpcio's, with its parameters.
_CALLED = {
    "_handle_unary_unary_rpc": ("method_handler", "rpc_state", "loop"),
    "_handle_rpc": ("method_name", "method_resolver", "interceptors", "rpc_state", "loop", "concurrency_exceeded"),
    "_handle_exceptions": ("rpc_state", "rpc_coro", "loop", "method_name"),
    "_handle_cancellation_from_core": ("rpc_task", "rpc_state", "loop"),
}

# From an accepted call to the coroutine that handles it.
_Handle = Callable[[Any], Coroutine[Any, Any, None]]


def supported() -> bool:
    """Whether the installed grpcio has what this module needs, with the arguments that it passes."""
    server = getattr(cygrpc, "AioServer", None)
    return (
        server is not None
        and all(
            hasattr(server, name) for name in ("_make_request_call_future", "_request_registered_call", "_request_call")
        )
        and all(hasattr(cygrpc, name) for name in ("_MethodResolver", "AbortError", "ExecuteBatchError", *_CALLED))
        and all(
            tuple(inspect.signature(getattr(cygrpc, name)).parameters) == parameters
            for name, parameters in _CALLED.items()
        )
    )


def server(options: Sequence[tuple[str, Any]]) -> grpc.aio.Server:
    """A server with several accepts a method; only where `supported` says so."""
    return Server(options)  # type: ignore[return-value] # its base is the class behind the public name


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
        # Calls that nobody listens to yet: those that came since the last look, and those that were here then.
        self._young: dict[asyncio.Task[None], Any] = {}
        self._older: dict[asyncio.Task[None], Any] = {}
        self._looking = False
        self._listening: set[asyncio.Task[None]] = set()
        if isinstance(loop, event_loop.EventLoop):
            loop.calls = lambda: len(self._young) + len(self._older) + len(self._listening)

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
            name = ""
            handle = self._handle(name, {name: _unknown_method(self._handlers)})
            accept: Callable[[], Awaitable[Any]] = self._request_call
            count = 1
        else:
            name = method.decode()
            handle = self._handle(name, self._handlers)
            accept = lambda: self._request_registered_call(method)  # noqa: E731 - one name, two forms
            count = ACCEPTS_PER_METHOD
        for _ in range(count):
            task = self._own_loop.create_task(self._accept(accept, name, handle, stopped))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)
        return stopped

    def _handle(self, name: str, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> _Handle:
        """How a call of a method is handled: a unary one without being looked for again, which grpc.aio would do."""
        handler, loop = handlers[name], self._own_loop
        if not handler.request_streaming and not handler.response_streaming:
            return lambda call: cygrpc._handle_unary_unary_rpc(handler, call, loop)
        resolver = cygrpc._MethodResolver([], handlers)
        return lambda call: cygrpc._handle_rpc(name, resolver, (), call, loop, False)

    async def _accept(
        self, accept: Callable[[], Awaitable[Any]], name: str, handle: _Handle, stopped: asyncio.Future[None]
    ) -> None:
        try:
            while True:
                call = await accept()
                handling = _sent_or_lost(handle(call))
                self._start(call, cygrpc._handle_exceptions(call, handling, self._own_loop, name))
        except Exception as error:  # noqa: BLE001 - whatever ends an accept ends the server, in the main loop's hands
            if not stopped.done():
                stopped.set_exception(error)

    def _start(self, call: Any, handling: Coroutine[Any, Any, None]) -> None:
        task = self._own_loop.create_task(handling)
        self._young[task] = call
        task.add_done_callback(self._ended)
        if not self._looking:
            self._looking = True
            self._own_loop.call_later(_LISTEN_AFTER_SECONDS, self._look)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._young.pop(task, None) is None:
            self._older.pop(task, None)

    def _look(self) -> None:
        """Listen for the leaving of those whose calls have been here for a while, which cancels their handlers."""
        for task, call in self._older.items():
            listening = self._own_loop.create_task(cygrpc._handle_cancellation_from_core(task, call, self._own_loop))
            self._listening.add(listening)
            listening.add_done_callback(self._listening.discard)
        self._older, self._young = self._young, {}
        self._looking = bool(self._older)
        if self._looking:
            self._own_loop.call_later(_LISTEN_AFTER_SECONDS, self._look)


async def _sent_or_lost(handling: Coroutine[Any, Any, None]) -> None:
    """Handle a call; an answer that cannot be sent has lost its caller, which is no error of anybody's."""
    try:
        await handling
    except cygrpc.ExecuteBatchError:
        return
    except cygrpc.AbortError as refused:
        # The call keeps this exception, whose traceback keeps the handler's frame, its message and the call: a circle,
        # which would keep the messages of two seconds of refusals until Python's collector comes by.
        raise refused.with_traceback(None) from None


def _unknown_method(handlers: dict[str, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """Answers any call, of any kind, that no such method is here."""
    known = ", ".join(sorted(name for name in handlers if name.startswith("/poolservice.")))

    async def refuse(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no such method; this server has {known}")

    return grpc.stream_stream_rpc_method_handler(refuse)
