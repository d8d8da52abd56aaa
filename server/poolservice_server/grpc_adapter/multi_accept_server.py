"""A faster grpc.aio server: it accepts several calls of each method per event-loop iteration.

grpc.aio keeps one accept per method pending and starts the next one in a later iteration of the event loop, so under
load each iteration brings one call. With several accepts pending, one iteration brings several calls: they fall into
the same batch and share the cost of the iteration.

This server also survives a call whose path is not UTF-8. grpc.aio decodes the path in its main loop, where the error
ends the server; here the path of an unknown method is never decoded.

A call costs gRPC's core four operations. One of them only waits for the caller to cancel. Most calls end before
anybody could cancel them, so this server starts that operation only for calls that are still active after a while.

All of this builds on private names of grpcio. Import this module only if
`private_names.missing("multi_accept_server")` is empty; otherwise use the plain grpc.aio server, under a supervisor,
because a malformed call can end it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc._cython import cygrpc
from grpc.aio import _server

from poolservice_server.grpc_adapter import merging_event_loop

#: Four give most of the gain; sixteen give no more than eight.
ACCEPTS_PER_METHOD = 8

# The server starts watching a call for cancellation after one to two of these intervals. A caller that cancels earlier
# cancels a call that is about to end anyway.
_WATCH_INTERVAL_SECONDS = 0.02

# The status code of a call that has not failed, and no flags, in the types of grpcio.
_OK, _NO_FLAGS = cygrpc.StatusCode.ok, 0

_Accept = Callable[[], Awaitable[Any]]

# Handles an accepted call, in a task, until its response is sent.
_Handle = Callable[[Any, asyncio.Task[None]], Awaitable[None]]


def create_server(
    options: Sequence[tuple[str, Any]], call_ended: Callable[[asyncio.Task[Any]], None] = lambda _task: None
) -> grpc.aio.Server:
    """Return a server with `ACCEPTS_PER_METHOD` pending accepts per method.

    Args:
        options: the options of gRPC's core.
        call_ended: called with the task of each call when its response is sent, or when its caller has left.
    """
    return _Server(options, call_ended)  # type: ignore[return-value] # grpcio's own server class is not a grpc.aio.Server either


class _Server(_server.Server):
    """A `grpc.aio.Server` for registered methods only.

    It never asks generic handlers, and answers calls of all other methods with UNIMPLEMENTED.
    """

    def __init__(self, options: Sequence[tuple[str, Any]], call_ended: Callable[[asyncio.Task[Any]], None]) -> None:
        # The constructor of the base class would create a plain core server here, which cannot be undone.
        self._loop = cygrpc.get_working_loop()
        self._server = _CoreServer(self._loop, call_ended, None, (), (), tuple(options), None)


class _CoreServer(cygrpc.AioServer):  # type: ignore[misc] # a class of the extension module, without types
    def __init__(
        self, loop: asyncio.AbstractEventLoop, call_ended: Callable[[asyncio.Task[Any]], None], *arguments: Any
    ) -> None:
        super().__init__(loop, *arguments)
        self._event_loop = loop
        self._call_ended = call_ended
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._accepts: set[asyncio.Task[None]] = set()
        # The calls that are not watched yet: those accepted in this interval and those accepted in the one before.
        self._new_calls: dict[asyncio.Task[None], Any] = {}
        self._older_calls: dict[asyncio.Task[None], Any] = {}
        self._timer_runs = False
        # The tasks that watch the other calls.
        self._watchers: dict[asyncio.Task[None], asyncio.Task[None]] = {}
        if isinstance(loop, merging_event_loop.EventLoop):
            loop.active_calls = lambda: len(self._new_calls) + len(self._older_calls) + len(self._watchers)

    def add_registered_method_handlers(self, method_handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        super().add_registered_method_handlers(method_handlers)
        self._handlers.update(method_handlers)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[None]:
        """Start the accepts of a method, or of all unknown methods for None.

        The main loop of grpc.aio's server calls this once per method and awaits the returned future, which must
        therefore stay pending until the server stops accepting.
        """
        stopped = self._event_loop.create_future()
        if method is None:
            name = ""
            handle = self._handler(name, {name: _unknown_method(self._handlers)})
            accept: _Accept = self._request_call
            count = 1
        else:
            name = method.decode()
            handle = self._handler(name, self._handlers)
            accept = lambda: self._request_registered_call(method)  # noqa: E731 - the other branch assigns a method
            count = ACCEPTS_PER_METHOD
        for _ in range(count):
            task = self._event_loop.create_task(self._accept_calls(accept, handle, stopped))
            self._accepts.add(task)
            task.add_done_callback(self._accepts.discard)
        return stopped

    def _handler(self, name: str, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> _Handle:
        """Return the function that handles a call of a method.

        A method with a stream of requests and one response does without grpc.aio's layers above the batches of
        operations. It must read its messages from the context: in place of an iterator it gets the call's task.
        """
        handler, loop = handlers[name], self._event_loop
        if not handler.request_streaming or handler.response_streaming:
            resolver = cygrpc._MethodResolver([], handlers)
            return lambda call, _task: cygrpc._handle_exceptions(
                call, _handle_rpc(name, resolver, call, loop), loop, name
            )
        method: Any = handler.stream_unary

        async def handle(call: Any, task: asyncio.Task[None]) -> None:
            try:
                response = await method(task, cygrpc._ServicerContext(call, None, None, loop))
            except grpc.aio.AbortError as aborted:
                _release_frames(aborted)
            except asyncio.CancelledError:
                # The caller has left, or the call has ended before its time.
                return
            except Exception as error:  # noqa: BLE001 - grpc.aio logs it and ends the call
                await cygrpc._handle_exceptions(call, _fail(error), loop, name)
            else:
                operations = (
                    cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),
                    cygrpc.SendMessageOperation(response, _NO_FLAGS),
                    cygrpc.SendStatusFromServerOperation((), _OK, "", _NO_FLAGS),
                )
                # The send may last for a long time, in which only gRPC needs the response.
                del response
                with contextlib.suppress(cygrpc.ExecuteBatchError, asyncio.CancelledError):
                    await cygrpc.execute_batch(call, operations, loop)

        return handle

    async def _accept_calls(self, accept: _Accept, handle: _Handle, stopped: asyncio.Future[None]) -> None:
        try:
            while True:
                # In a task of its own, so that the next accept starts at once: calls that arrive in the same iteration
                # of the event loop are accepted in it. A variable of this frame would refer to the call, and so to its
                # response, until the next call.
                self._start(await accept(), handle)
        except Exception as error:  # noqa: BLE001 - the main loop decides what an error of an accept means
            if not stopped.done():
                stopped.set_exception(error)

    def _start(self, call: Any, handle: _Handle) -> None:
        # Looking up the current task costs more than passing it on.
        tasks: list[asyncio.Task[None]] = []
        task = self._event_loop.create_task(self._handle_call(tasks, call, handle))
        tasks.append(task)
        self._new_calls[task] = call
        if not self._timer_runs:
            self._timer_runs = True
            self._event_loop.call_later(_WATCH_INTERVAL_SECONDS, self._watch_older_calls)

    async def _handle_call(self, tasks: list[asyncio.Task[None]], call: Any, handle: _Handle) -> None:
        """Handle a call; `tasks` has the current task."""
        task = tasks.pop()
        try:
            await handle(call, task)
        finally:
            self._forget(task)
            self._call_ended(task)

    def _forget(self, task: asyncio.Task[None]) -> None:
        if self._new_calls.pop(task, None) is not None or self._older_calls.pop(task, None) is not None:
            return
        # The watcher refers to the call. If the call ends before its response is read, gRPC's core drops the response
        # when nobody refers to the call any more.
        self._watchers.pop(task).cancel()

    def _watch_older_calls(self) -> None:
        """Watch the older calls: if a caller cancels, the call's task is cancelled. Then start the next interval."""
        for task, call in self._older_calls.items():
            self._watchers[task] = self._event_loop.create_task(
                cygrpc._handle_cancellation_from_core(task, call, self._event_loop)
            )
        self._older_calls, self._new_calls = self._new_calls, {}
        self._timer_runs = bool(self._older_calls)
        if self._timer_runs:
            self._event_loop.call_later(_WATCH_INTERVAL_SECONDS, self._watch_older_calls)


async def _handle_rpc(name: str, resolver: Any, call: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Handle a call; if its response cannot be sent, because the caller has gone, end as if it was cancelled."""
    try:
        await cygrpc._handle_rpc(name, resolver, (), call, loop, False)
    except cygrpc.ExecuteBatchError:
        raise asyncio.CancelledError from None
    except grpc.aio.AbortError as aborted:
        _release_frames(aborted)
        raise aborted from None


async def _fail(error: Exception) -> None:
    raise error


def _release_frames(aborted: grpc.aio.AbortError) -> None:
    # The call refers to this exception, its traceback to the handler's frame, and the frame to the message and the
    # call. That cycle would hold the messages of two seconds of refusals until Python's next garbage collection.
    aborted.__traceback__ = None
    aborted.__context__ = None


def _unknown_method(handlers: dict[str, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler that answers UNIMPLEMENTED to any call, unary or streaming."""
    known = ", ".join(sorted(name for name in handlers if name.startswith("/poolservice.")))

    async def refuse(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"unknown method; this server has {known}")

    return grpc.stream_stream_rpc_method_handler(refuse)
