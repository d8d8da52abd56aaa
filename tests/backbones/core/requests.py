"""Requests for the backbone "net" of `fake_network`, and what their responses must hold."""

import io
from typing import Any

import numpy as np
from PIL import Image
from tests.backbones.core.fake_network import backbone, features_of

from poolservice.specs import to_message
from poolservice.v1 import pool_pb2 as pb
from poolservice_server import images
from poolservice_server.backbones.preprocessing import to_samples
from poolservice_server.core.service import Call, PoolService


def png(width: int = 13, height: int = 9) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image_request(*specs: Any, **fields: Any) -> pb.PoolRequest:
    image = pb.Image(data=fields.pop("data", None) or png())
    return pb.PoolRequest(specs=[to_message(spec) for spec in specs], image=image, backbone="net", **fields)


def samples(count: int = 1) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 3, 8, 8)).astype("<f4")


def tensor_request(values: np.ndarray, *specs: Any, **fields: Any) -> pb.PoolRequest:
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=values.shape, data=values.tobytes())
    return pb.PoolRequest(specs=[to_message(spec) for spec in specs], tensor=tensor, backbone="net", **fields)


async def pool(service: PoolService, request: pb.PoolRequest, **call: Any) -> pb.PoolResponse:
    return pb.PoolResponse.FromString(await service.pool(Call(request.SerializeToString(), **call)))


def array(tensor: pb.Tensor) -> np.ndarray:
    dtype = {pb.DATA_TYPE_FLOAT32: "<f4", pb.DATA_TYPE_FLOAT16: "<f2"}[tensor.dtype]
    return np.frombuffer(tensor.data, dtype).reshape(tuple(tensor.shape))


def features_of_image(file: bytes) -> np.ndarray:
    """Return the features (4, 2, 2) of an image file."""
    planes = images.decode(file, "RGB", max_pixels=2**20)
    one = backbone()
    features: np.ndarray = features_of(to_samples(planes, one.input, one.preprocessing))[0]
    return features
