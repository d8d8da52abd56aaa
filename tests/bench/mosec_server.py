"""A mosec server for one benchmark job: raw bytes in, torch, raw bytes out, with dynamic batching.

python tests/bench/mosec_server.py max2x2|mean|image [--shape C,H,W] [--batch N] [--processes N]
"""

import io
import os
import warnings
from typing import Annotated

import mosec
import numpy as np
import torch
import torch.nn.functional as F
import typer
from PIL import Image

import mosec_service

# The shortest time that mosec allows. A batch waits that long for further requests, unless it is full.
_MAX_WAIT_MILLISECONDS = 1

_OPERATOR, _SHAPE = "MOSEC_SERVER_OPERATOR", "MOSEC_SERVER_SHAPE"


class PoolWorker(mosec.Worker):
    """Pools float32 tensors of one shape, or images, in batches."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        # One thread in each of the processes.
        torch.set_num_threads(1)
        # The request's bytes are read-only, which is fine for an input.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        self._operator = os.environ[_OPERATOR]
        self._shape = tuple(int(size) for size in os.environ[_SHAPE].split(",") if size)
        mosec_service.announce_ready()

    def deserialize(self, data: bytes) -> torch.Tensor:
        """Return the tensor of a request's body."""
        if self._operator == "image":
            return _decoded(data)
        return torch.frombuffer(data, dtype=torch.float32).reshape(self._shape)

    def forward(self, data: list[torch.Tensor]) -> list[torch.Tensor]:
        """Pool a batch."""
        if self._operator == "image":
            # Images of a batch may have different sizes.
            return [x.mean(dim=(-2, -1)) for x in data]
        stacked = torch.stack(data)
        if self._operator == "max2x2":
            return list(F.max_pool2d(stacked, 2).unbind())
        return list(stacked.mean(dim=(-2, -1)).unbind())

    def serialize(self, data: torch.Tensor) -> bytes:
        """Return the body of a response."""
        encoded: bytes = data.numpy().tobytes()
        return encoded


def _decoded(file: bytes) -> torch.Tensor:
    pixels = np.array(Image.open(io.BytesIO(file)).convert("RGB"))
    # The same as torchvision's ToTensor.
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def command(
    operator: Annotated[str, typer.Argument(help="max2x2, mean or image.")],
    shape: Annotated[str, typer.Option(help="The shape of a tensor, such as 512,7,7.")] = "",
    batch: Annotated[int, typer.Option(min=2, help="The most requests of a batch.")] = 4,
    processes: Annotated[int, typer.Option(help="Processes that compute.")] = len(os.sched_getaffinity(0)),
) -> None:
    """Serve on a free port."""
    os.environ |= {_OPERATOR: operator, _SHAPE: shape}
    mosec_service.serve(
        lambda server: server.append_worker(
            PoolWorker, num=processes, max_batch_size=batch, max_wait_time=_MAX_WAIT_MILLISECONDS
        ),
        processes,
    )


if __name__ == "__main__":
    typer.run(command)
