"""A job as it is measured: its message, encoded once, and how it is sent."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from poolservice.codec import RequestEncoder, encode_batch_request
from poolservice.dtypes import NUMPY_DTYPES, WireDtype
from poolservice.errors import InvalidRequest
from poolservice.specs.messages import to_message
from poolservice.v1 import pool_pb2
from poolservice_server.tune.jobs_file import JobTable, WrongJobs
from poolservice_server.tune.spec_text import parse_spec

_SEED = 20261127
# A generated image is random at this fraction of its size, with a little noise: its file is as large as a photograph's.
_DETAIL = 8


class Job(NamedTuple):
    """One kind of call.

    Attributes:
        name: its name in the report.
        message: a PoolRequest, or a PoolBatchRequest.
        requests: the number of requests in the message.
        is_batch: True for a PoolBatchRequest.
        concurrency: the number of calls in progress.
        weight: how much it counts beside the others.
        is_image: True if its input is an encoded image.
        has_backbone: True if a backbone runs its image.
    """

    name: str
    message: bytes
    requests: int
    is_batch: bool
    concurrency: int
    weight: float
    is_image: bool
    has_backbone: bool

    @property
    def request_bytes(self) -> int:
        """Return the size of one request."""
        return len(self.message) // self.requests


def make_job(table: JobTable, folder: Path) -> Job:
    """Return the job that a table describes.

    Args:
        table: the table.
        folder: the folder of the jobs file, to which paths are relative.

    Raises:
        WrongJobs: the image file cannot be read, or the message would be too large.
    """
    head = pool_pb2.PoolRequest(
        specs=[to_message(parse_spec(text)) for text in table.specs], backbone=table.backbone or "", tap=table.tap or ""
    )
    if table.shape is not None:
        dtype, data = _tensor(table.shape, table.dtype)
        head.tensor.CopyFrom(pool_pb2.Tensor(dtype=dtype, shape=table.shape))
    else:
        data = _image(table, folder)
        head.image.SetInParent()
    count = table.requests_per_message
    try:
        request = RequestEncoder(head).encode(data)
    except InvalidRequest as error:
        raise WrongJobs(f"the job {table.name!r} cannot be sent: {error}") from None
    return Job(
        table.name,
        encode_batch_request([request] * count) if count > 1 else request,
        count,
        count > 1,
        table.concurrency,
        table.weight,
        table.shape is None,
        table.backbone is not None,
    )


def _tensor(shape: tuple[int, ...], name: str) -> tuple[WireDtype, bytes]:
    wire, dtype = next((wire, dtype) for wire, dtype in NUMPY_DTYPES.items() if dtype.name == name)
    values = np.random.default_rng(_SEED).standard_normal(shape, np.float32)
    if dtype.kind in "iu":
        values = np.abs(values) * 40
    return wire, values.astype(dtype).tobytes()


def _image(table: JobTable, folder: Path) -> bytes:
    if table.image_file is not None:
        path = folder / table.image_file
        try:
            return path.read_bytes()
        except OSError as error:
            raise WrongJobs(f"cannot read the image {path} of the job {table.name!r}: {error.strerror}") from None
    width, height = table.image or (1, 1)
    random = np.random.default_rng(_SEED)
    coarse = random.integers(0, 256, (-(-height // _DETAIL), -(-width // _DETAIL), 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    pixels = np.clip(smooth + random.integers(-4, 5, smooth.shape, np.int16), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, table.format.upper())
    return file.getvalue()
