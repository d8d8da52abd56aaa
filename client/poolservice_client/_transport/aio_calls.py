"""Single calls of grpc.aio: their start, their end, and their cancellation.

grpc.aio runs each call in a task of its own. asyncio.run cancels all tasks at its end, and so would cancel this task
while gRPC's core still works on the call. The core would then report the end of the call to an event loop that is
closed, and the next event loop of the process would log "Event loop is closed". `start_call` hides the task from
asyncio.run, so that only `cancel_call` cancels a call, which waits for the core.
"""

import asyncio
from asyncio.tasks import _unregister_task
from collections.abc import Callable
from functools import partial
from typing import Any

# gRPC ends a cancelled call within milliseconds.
_CANCEL_SECONDS = 1.0


def start_call(method: Any, request: bytes, timeout: float | None, metadata: Any) -> Any:
    """Start a call in the running event loop and return it.

    Args:
        method: the callable of a channel.
        request: the encoded message.
        timeout: seconds until gRPC ends the call; None for no limit.
        metadata: pairs of key and value; None for none.
    """
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    # No other code runs before the factory is put back.
    loop.set_task_factory(_hidden_task if factory is None else partial(_hidden_task, factory=factory))
    try:
        return method(request, timeout=timeout, metadata=metadata)
    finally:
        loop.set_task_factory(factory)


def _hidden_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, factory: Callable[..., Any] | None = None, **keywords: Any
) -> Any:
    task = asyncio.Task(coroutine, loop=loop, **keywords) if factory is None else factory(loop, coroutine, **keywords)
    # The function that asyncio documents for authors of tasks: asyncio.all_tasks no longer returns this one.
    _unregister_task(task)
    return task


def end_of(call: Any) -> "asyncio.Future[None]":
    """Return a future that is done when the call has ended.

    Unlike a wait for the call, a wait for this future can be cancelled without cancelling the call.
    """
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set_ended(_call: object) -> None:
        if not ended.done():
            ended.set_result(None)

    call.add_done_callback(set_ended)
    return ended


async def cancel_call(call: Any) -> None:
    """Cancel a call and wait until gRPC has ended it and released its request.

    `call.cancel()` would also cancel the call's own task, and then nothing could wait for that end: memory would not be
    bounded by the number of slots, and gRPC would never free its description of the request.
    """
    core_call = getattr(call, "_cython_call", None)
    if core_call is None:
        # A call with interceptors, or another version of gRPC.
        call.cancel()
        return
    if not core_call.done():
        core_call.cancel("cancelled by the caller")
    ended = asyncio.ensure_future(_response_of(call))
    # The call may have failed just before. Nobody wants its error any more.
    ended.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.wait([ended], timeout=_CANCEL_SECONDS)


async def _response_of(call: Any) -> bytes | None:
    """Await a call. Unlike the call itself, this coroutine can become a task."""
    response: bytes | None = await call
    return response
