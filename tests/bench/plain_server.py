"""The server that a user would write in fifty lines: grpcio, generated classes and torch, without batching.

python tests/bench/plain_server.py
"""

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from poolservice.v1 import pool_pb2, pool_pb2_grpc


class PlainPoolService(pool_pb2_grpc.PoolServiceServicer):
    """Pools float32 tensors and images with max or global average pooling, one call at a time on each thread."""

    def Pool(self, request: pool_pb2.PoolRequest, context: grpc.ServicerContext) -> pool_pb2.PoolResponse:  # noqa: N802
        x = self._payload(request)
        results = []
        for spec in request.specs:
            if spec.WhichOneof("operator") == "max_pool":
                y = F.max_pool2d(x, list(spec.max_pool.kernel_size))
            else:
                y = x.mean(dim=(-2, -1), keepdim=True)
            tensor = pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=y.shape, data=y.numpy().tobytes())
            results.append(pool_pb2.PoolResult(tensor=tensor))
        return pool_pb2.PoolResponse(results=results)

    def _payload(self, request: pool_pb2.PoolRequest) -> torch.Tensor:
        if request.WhichOneof("payload") == "tensor":
            values = np.frombuffer(request.tensor.data, np.float32).reshape(tuple(request.tensor.shape))
            return torch.from_numpy(values.copy())
        pixels = np.array(Image.open(io.BytesIO(request.image.data)).convert("RGB"))
        # The same as torchvision's ToTensor.
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def serve() -> None:
    server = grpc.server(ThreadPoolExecutor(max_workers=10))
    add: Any = pool_pb2_grpc.add_PoolServiceServicer_to_server
    add(PlainPoolService(), server)  # type: ignore[abstract] # the stubs require every method, grpc does not
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"plain server at 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    serve()
