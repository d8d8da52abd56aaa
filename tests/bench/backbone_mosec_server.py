"""A mosec server around an ONNX file: image files in, float32 vectors out, with dynamic batching.

python tests/bench/backbone_mosec_server.py FOLDER [--batch N] [--stages N]

With two stages, one process per core decodes and preprocesses, and one process runs batches with as many threads as
cores. With one stage, one process per core does all of it, with one thread.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import mosec
import numpy as np
import typer

import mosec_service
from backbone_network import open_session, preprocess, run

# How long a batch waits for further requests, unless it is full.
_MAX_WAIT_MILLISECONDS = 5

_FOLDER, _THREADS = "MOSEC_SERVER_FOLDER", "MOSEC_SERVER_THREADS"


class PreprocessWorker(mosec.Worker):
    """Decodes and preprocesses one image."""

    def __init__(self) -> None:
        super().__init__()
        mosec_service.announce_ready()

    def deserialize(self, data: bytes) -> bytes:
        """Return the image file."""
        return data

    def forward(self, data: bytes) -> np.ndarray:
        """Return a sample, (3, H, W)."""
        return preprocess(data)


class NetworkWorker(mosec.Worker):
    """Runs batches of samples."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._session = open_session(Path(os.environ[_FOLDER]), threads=int(os.environ[_THREADS]))
        mosec_service.announce_ready()

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        """Return a vector for each sample."""
        return list(run(self._session, np.stack(data)))

    def serialize(self, data: np.ndarray) -> bytes:
        """Return the body of a response."""
        return data.tobytes()


class WholeWorker(NetworkWorker):
    """Preprocesses and runs batches of images."""

    def deserialize(self, data: bytes) -> np.ndarray:
        """Return the sample of an image file."""
        return preprocess(data)


def command(
    folder: Annotated[Path, typer.Argument(help="The backbone folder.")],
    batch: Annotated[int, typer.Option(min=2, help="The most requests of a batch.")] = 32,
    stages: Annotated[int, typer.Option(min=1, max=2, help="Stages: 2, or 1 for all work in one.")] = 2,
) -> None:
    """Serve on a free port."""
    cores = len(os.sched_getaffinity(0))
    os.environ |= {_FOLDER: str(folder), _THREADS: str(cores if stages == 2 else 1)}
    batching = {"max_batch_size": batch, "max_wait_time": _MAX_WAIT_MILLISECONDS}

    def append_workers(server: Any) -> None:
        if stages == 2:
            server.append_worker(PreprocessWorker, num=cores)
            server.append_worker(NetworkWorker, num=1, **batching)
        else:
            server.append_worker(WholeWorker, num=cores, **batching)

    mosec_service.serve(append_workers, cores + 1 if stages == 2 else cores)


if __name__ == "__main__":
    typer.run(command)
