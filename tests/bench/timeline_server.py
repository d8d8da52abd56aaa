"""poolservice-server with a recording of what it does, for tests/bench/timeline.py.

python tests/bench/timeline_server.py FILE [FLAG ...]

It replaces functions of the server with recording ones, and then runs the server's own command. When the server stops,
it writes the recording to FILE.
"""

import asyncio
import sys
from collections.abc import Callable
from contextvars import Context
from functools import wraps
from pathlib import Path
from typing import Any, TypeVarTuple

from timeline_spans import Recorder, Step

Arguments = TypeVarTuple("Arguments")


def record(recorder: Recorder, file: Path) -> None:
    """Replace functions of the server with recording ones."""
    # Imported here, because the server's command restarts the process before it imports these.
    from poolservice import codec
    from poolservice_server import process
    from poolservice_server.backend import Backend
    from poolservice_server.core import responder, service
    from poolservice_server.core.plan import Plan
    from poolservice_server.core.request_limits import RequestLimits
    from poolservice_server.core.response_builder import ResponseBuilder
    from poolservice_server.grpc_adapter.merging_event_loop import EventLoop

    recorder.mark_calls(Step.REQUEST_RECEIVED, Step.RESPONSE_SENT, service.PoolService, "pool")
    recorder.mark_calls(Step.REQUEST_RECEIVED, Step.RESPONSE_SENT, service.PoolService, "pool_batch")
    _mark_stream(recorder, codec)
    recorder.time_calls(Step.SERVER_DECODE, codec, "decode_request", "decode_batch_request", "decode_stream_request")
    recorder.time_calls(Step.SERVER_DECODE, responder, "known_head", "read_head")
    recorder.time_calls(Step.SERVER_DECODE, RequestLimits, "check_message", "seconds")
    recorder.time_calls(Step.SERVER_DECODE, Plan, "planes_of")
    recorder.time_calls(Step.SERVER_COMPUTE, Backend, "run")
    recorder.time_calls(Step.SERVER_ENCODE, ResponseBuilder, "encode")
    recorder.time_calls(Step.SERVER_ENCODE, codec, "encode_batch_response", "encode_stream_response")

    def timed(callback: Callable[..., Any]) -> Callable[..., Any]:
        return recorder.timed(Step.SERVER_LOOP, callback)

    class RecordingEventLoop(EventLoop):
        """The server's event loop, with each callback recorded."""

        def call_soon(
            self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
        ) -> asyncio.Handle:
            return super().call_soon(timed(callback), *args, context=context)

        def call_soon_threadsafe(
            self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
        ) -> asyncio.Handle:
            return super().call_soon_threadsafe(timed(callback), *args, context=context)

        def _merge_wakeups(self, wakeups: Any, read: Callable[..., Any]) -> Callable[..., Any]:
            return timed(super()._merge_wakeups(wakeups, read))

    original = process.ServingProcess.serve

    @wraps(original)
    async def serve(self: process.ServingProcess) -> None:
        try:
            await original(self)
        finally:
            recorder.save(file)

    for owner, name, replacement in (
        (process, "EventLoop", RecordingEventLoop),
        (process.ServingProcess, "serve", serve),
    ):
        setattr(owner, name, replacement)


def _mark_stream(recorder: Recorder, codec: Any) -> None:
    """Record the moments when a message of a stream arrives, and when its response is ready to be sent."""
    decode, encode = codec.decode_stream_request, codec.encode_stream_response

    def received(message: bytes) -> Any:
        recorder.mark(Step.REQUEST_RECEIVED)
        return decode(message)

    def sent(*arguments: Any) -> bytes:
        try:
            message: bytes = encode(*arguments)
            return message
        finally:
            recorder.mark(Step.RESPONSE_SENT)

    codec.decode_stream_request, codec.encode_stream_response = received, sent


def main() -> int:
    from poolservice_server import glibc_tunables
    from poolservice_server.grpc_adapter import experiments

    # As the server's command does, before anything imports grpc.
    glibc_tunables.restart_with_one_arena()
    experiments.disable_event_engine_listener()
    record(Recorder(), Path(sys.argv.pop(1)))

    from poolservice_server.__main__ import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
