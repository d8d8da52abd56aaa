"""A server that records requests for a backbone and sends a prepared response, for the tests of the clients."""

import io
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from PIL import Image

from poolservice.v1 import pool_pb2

X = np.zeros((3, 8, 8), np.float32)


def image(width: int = 40, height: int = 20, *, orientation: int | None = None, file_format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, format=file_format, exif=exif)
    return file.getvalue()


def tensor(array: Any) -> pool_pb2.Tensor:
    values = np.asarray(array, np.float32)
    return pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=values.shape, data=values.tobytes())


class Recorder:
    """The Pool method of a server: keeps the requests and sends the same response to each."""

    def __init__(self, response: pool_pb2.PoolResponse) -> None:
        self.requests: list[pool_pb2.PoolRequest] = []
        self.response = response

    def __call__(self, message: bytes, _: grpc.ServicerContext) -> bytes:
        self.requests.append(pool_pb2.PoolRequest.FromString(message))
        return self.response.SerializeToString()


def pooled(*arrays: Any) -> pool_pb2.PoolResponse:
    execution = pool_pb2.Execution(
        device="cpu",
        batch_size=1,
        preprocess_microseconds=3,
        backbone_microseconds=7,
        backbone_fingerprint="f1",
    )
    results = [pool_pb2.PoolResult(tensor=tensor(one)) for one in arrays]
    region = pool_pb2.ImageRegion(left=10, top=0, right=30, bottom=20)
    return pool_pb2.PoolResponse(execution=execution, results=results, region=region)


def explained(*maps: Any, labels: tuple[str, ...] = ("cat", "dog")) -> pool_pb2.PoolResponse:
    response = pooled()
    for index, (label, one) in enumerate(zip(labels, maps, strict=True)):
        response.classes.add(
            index=index + 5, label=label, logit=2.0 - index, probability=0.5 / (index + 1), activation_map=tensor(one)
        )
    return response


Serve = Callable[[Recorder], str]
