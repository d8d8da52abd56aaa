"""A gRPC server that computes nothing: raw bytes in, a response of a fixed size out.

python tests/bench/echo_server.py RESPONSE_BYTES [--tuned]

Without --tuned it is a plain grpc.aio server. With --tuned it has the settings of poolservice-server: multi-accept, its
event loop, its allocator's settings and its socket reading.
"""

# ruff: noqa: E402 - gRPC reads its environment variable when it is imported
import asyncio
import sys
from typing import Any

from poolservice_server.glibc_tunables import restart_with_one_arena
from poolservice_server.grpc_adapter import experiments

IS_TUNED = "--tuned" in sys.argv
if IS_TUNED:
    restart_with_one_arena()
    experiments.disable_event_engine_listener()

import grpc
import grpc.aio

from poolservice_server import allocator
from poolservice_server.grpc_adapter import merging_event_loop, multi_accept_server, options

SERVICE = "poolservice.v1.PoolService"


async def serve(response_bytes: int, *, tuned: bool) -> None:
    response = bytes(response_bytes)

    async def echo(_message: bytes, _context: Any) -> bytes:
        return response

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Pool": grpc.unary_unary_rpc_method_handler(echo)}
    server = multi_accept_server.create_server([options.READ_CHUNK_SIZE]) if tuned else grpc.aio.server()
    if not tuned:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echo server at 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    if IS_TUNED:
        allocator.keep_large_messages()
    with asyncio.Runner(loop_factory=merging_event_loop.EventLoop if IS_TUNED else None) as runner:
        runner.run(serve(int(sys.argv[1]), tuned=IS_TUNED))
