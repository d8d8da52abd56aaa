"""The benchmark jobs: encoded requests with known responses."""

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image

from poolservice import codec
from poolservice.specs import GlobalAvgPool2d, MaxPool2d, PoolSpec, to_message
from poolservice.v1 import pool_pb2

# The approximate size of a PoolResponse without the bytes of its results.
_RESPONSE_HEAD_BYTES = 40

# torch's own float32 mean of 307,200 pixels differs this much from the exact mean.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Job:
    """A request to benchmark, with the values of its response.

    Attributes:
        name: "J1" to "J4".
        title: a short description.
        request: an encoded PoolRequest.
        expected: the values of the result, flattened.
    """

    name: str
    title: str
    request: bytes
    expected: np.ndarray

    @property
    def response_bytes(self) -> int:
        """The approximate size of the response message, which an echo server returns."""
        return self.expected.nbytes + _RESPONSE_HEAD_BYTES

    def check(self, response: bytes) -> None:
        """Raise ValueError if an encoded PoolResponse does not hold the expected values."""
        (result,) = codec.decode_response(response).results
        values = np.frombuffer(result.value.data, np.float32)
        if not np.allclose(values, self.expected, rtol=_TOLERANCE, atol=0):
            raise ValueError(f"{self.name}: wrong values in the response: {values[:4]}, expected {self.expected[:4]}")


def make_jobs() -> list[Job]:
    """Return the jobs J1 to J4."""
    random = np.random.default_rng(0)
    image = random.random((3, 224, 224), np.float32)
    deep = random.random((512, 7, 7), np.float32)
    small = random.random((8, 8, 8), np.float32)
    return [
        _tensor_job("J1", "float32 3x224x224, max 2x2", image, MaxPool2d(2), _max_2x2(image)),
        _image_job("J2", "JPEG 640x480, global average"),
        _tensor_job("J3", "float32 512x7x7, global average", deep, GlobalAvgPool2d(), _mean(deep)),
        _tensor_job("J4", "float32 8x8x8, global average", small, GlobalAvgPool2d(), _mean(small)),
    ]


def photograph(width: int, height: int, *, quality: int = 85) -> bytes:
    """Return a real photograph as a JPEG file of the given size in pixels."""
    with Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False))) as image:
        part = image.crop((0, 0, image.width, round(image.width * height / width)))
        file = io.BytesIO()
        part.resize((width, height)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def tensor_request(values: np.ndarray, spec: PoolSpec) -> bytes:
    """Encode a PoolRequest for float32 `values`."""
    tensor = pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=values.shape, data=values.tobytes())
    return pool_pb2.PoolRequest(specs=[to_message(spec)], tensor=tensor).SerializeToString()


def _tensor_job(name: str, title: str, values: np.ndarray, spec: PoolSpec, expected: np.ndarray) -> Job:
    return Job(name, title, tensor_request(values, spec), expected)


def _image_job(name: str, title: str) -> Job:
    file = photograph(640, 480)
    spec = to_message(GlobalAvgPool2d())
    request = pool_pb2.PoolRequest(specs=[spec], image=pool_pb2.Image(data=file)).SerializeToString()
    pixels = np.asarray(Image.open(io.BytesIO(file))).astype(np.float64) / 255
    return Job(name, title, request, pixels.mean((0, 1)).astype(np.float32))


def _max_2x2(values: np.ndarray) -> np.ndarray:
    channels, height, width = values.shape
    expected: np.ndarray = values.reshape(channels, height // 2, 2, width // 2, 2).max((2, 4)).ravel()
    return expected


def _mean(values: np.ndarray) -> np.ndarray:
    mean: np.ndarray = values.astype(np.float64).mean((1, 2)).astype(np.float32)
    return mean
