"""What gRPC in Python carries when nothing is computed: raw bytes in, an answer of a given size out.

python tests/bench/echo_server.py ANSWER_BYTES [--tuned]

Untuned it is grpc.aio as it comes; tuned, it has what poolservice-server has: several accepts a method, the
allocator's thresholds, uvloop.
"""

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
import uvloop

from poolservice_server import accepts, allocator

SERVICE = "poolservice.v1.PoolService"


async def serve(answer_bytes: int, *, tuned: bool) -> None:
    answer = bytes(answer_bytes)

    async def echo(_message: bytes, _context: Any) -> bytes:
        return answer

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Pool": grpc.unary_unary_rpc_method_handler(echo)}
    server = accepts.server([]) if tuned else grpc.aio.server()
    if not tuned:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echo server at 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    is_tuned = "--tuned" in sys.argv
    run = asyncio.run
    if is_tuned:
        allocator.keep_large_messages()
        run = uvloop.run
    run(serve(int(sys.argv[1]), tuned=is_tuned))
