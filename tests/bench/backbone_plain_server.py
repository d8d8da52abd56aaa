"""The server that a user would write around an ONNX file: grpcio and onnxruntime with their defaults, one run per call.

python tests/bench/backbone_plain_server.py FOLDER

Requests are image files, responses are float32 vectors, without messages around them.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from backbone_network import open_session, preprocess, run


def serve(folder: Path) -> None:
    session = open_session(folder)

    def embed(file: bytes, _context: grpc.ServicerContext) -> bytes:
        vector: bytes = run(session, preprocess(file)[None]).tobytes()
        return vector

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(embed)
    server = grpc.server(ThreadPoolExecutor(max_workers=10))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("poolservice.v1.PoolService", {"Pool": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"plain server at 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
