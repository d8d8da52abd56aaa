"""What `make bench-backbone` compares, each with its client, behind one interface."""

import asyncio
import importlib.util
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

import children
from backbone_network import FEATURES, open_session, preprocess, run
from children import Server
from http_client import http_calls
from load import Measurement, calls_to, closed_loop, closed_loop_of_threads, keep_calling, measurement
from poolservice_client import AsyncPoolClient, GlobalAvgPool2d, PoolClient

LIMIT, PLAIN, MOSEC, MOSEC_ONE_STAGE = "limit", "plain", "mosec", "mosec, 1 stage"
ASYNC, THREADS = "poolservice", "in threads"

# Vectors of all contestants have at least this cosine with the reference's.
_MIN_COSINE = 0.99999

_HERE = Path(__file__).parent
_MOSEC_PATH = "/inference"
_WARM_UP_SECONDS = 0.15


class EmbeddingJob:
    """An image that a network turns into an embedding.

    Args:
        network: the name of the network.
        folder: its backbone folder.
        file: the image file.

    Attributes:
        network, folder, file: as the arguments.
        expected: the embedding.
    """

    def __init__(self, network: str, folder: Path, file: bytes) -> None:
        self.network = network
        self.folder = folder
        self.file = file
        # Runs with one thread, which threads of this process may make at the same time.
        self._session = open_session(folder, threads=1)
        self.expected = self.embed()

    def embed(self) -> np.ndarray:
        """Return the embedding (C,), computed in this thread."""
        vector: np.ndarray = run(self._session, preprocess(self.file)[None])[0]
        return vector

    def check(self, name: str, vector: np.ndarray) -> None:
        """Raise ValueError if a contestant's embedding is wrong."""
        cosine = float(vector @ self.expected)
        if vector.shape != self.expected.shape or not cosine >= _MIN_COSINE:
            raise ValueError(f"{self.network}: wrong values from {name}: {vector[:4]}, cosine {cosine:.6f}")


#: Measures one contestant: its server, the job, the concurrent calls, the seconds.
Measure = Callable[[Any, EmbeddingJob, int, float], Awaitable[Measurement]]


class Contestant(NamedTuple):
    """A program with a client.

    Attributes:
        name: as in the tables.
        server: the name of its server, by which contestants share one; empty if there is none.
        measure: measures it.
    """

    name: str
    server: str
    measure: Measure


class Servers(NamedTuple):
    """How the servers of one network are started.

    Attributes:
        mosec_batch: the most images in one batch of mosec.
    """

    mosec_batch: int

    def running(self, name: str, job: EmbeddingJob) -> AbstractContextManager[Server | None]:
        """Start the server of this name."""
        folder = str(job.folder)
        mosec = (str(_HERE / "backbone_mosec_server.py"), folder, "--batch", str(self.mosec_batch), "--stages")
        arguments = {
            "": (),
            PLAIN: (str(_HERE / "backbone_plain_server.py"), folder),
            MOSEC: (*mosec, "2"),
            MOSEC_ONE_STAGE: (*mosec, "1"),
            ASYNC: (*children.POOLSERVICE, "--backbone", folder),
        }[name]
        return children.running(*arguments) if arguments else nullcontext()


def contestants() -> list[Contestant]:
    """Return the contestants; mosec only if it is installed."""
    found = [
        Contestant(LIMIT, "", _limit),
        Contestant(ASYNC, ASYNC, _sdk),
        Contestant(THREADS, ASYNC, _sdk_threads),
        Contestant(PLAIN, PLAIN, _plain),
    ]
    if importlib.util.find_spec("mosec") is not None:
        found += [Contestant(MOSEC, MOSEC, _mosec), Contestant(MOSEC_ONE_STAGE, MOSEC_ONE_STAGE, _mosec)]
    return found


async def _limit(_server: None, job: EmbeddingJob, callers: int, seconds: float) -> Measurement:
    """Embed on as many threads of this process as there are cores, without any network."""
    threads = min(callers, len(os.sched_getaffinity(0)))
    await asyncio.to_thread(keep_calling, job.embed, threads, _WARM_UP_SECONDS)
    began, used_before = time.perf_counter(), time.process_time()
    latencies = await asyncio.to_thread(keep_calling, job.embed, threads, seconds)
    elapsed, used = time.perf_counter() - began, time.process_time() - used_before
    return measurement(latencies, elapsed, used, 0.0, psutil.Process().memory_info().rss)


async def _sdk(server: Server, job: EmbeddingJob, callers: int, seconds: float) -> Measurement:
    async with AsyncPoolClient(server.address) as client:

        async def call(file: Any) -> np.ndarray:
            return await client.pool(
                file, GlobalAvgPool2d(), backbone=job.network, tap=FEATURES, output="features", normalize=True
            )

        job.check(ASYNC, await call(job.file))
        calls: Any = [call]
        return await closed_loop(server, calls, job.file, concurrency=callers, seconds=seconds)


async def _sdk_threads(server: Server, job: EmbeddingJob, callers: int, seconds: float) -> Measurement:
    with PoolClient(server.address) as client:

        def call() -> np.ndarray:
            return client.pool(
                job.file, GlobalAvgPool2d(), backbone=job.network, tap=FEATURES, output="features", normalize=True
            )

        job.check(THREADS, call())
        return await asyncio.to_thread(closed_loop_of_threads, server, call, concurrency=callers, seconds=seconds)


async def _plain(server: Server, job: EmbeddingJob, callers: int, seconds: float) -> Measurement:
    async with calls_to(server.address) as calls:
        job.check(PLAIN, np.frombuffer(await calls[0](job.file), np.float32))
        return await closed_loop(server, calls, job.file, concurrency=callers, seconds=seconds)


async def _mosec(server: Server, job: EmbeddingJob, callers: int, seconds: float) -> Measurement:
    async with http_calls(server.address, _MOSEC_PATH, callers) as calls:
        job.check(MOSEC, np.frombuffer(await calls[0](job.file), np.float32))
        return await closed_loop(server, calls, job.file, concurrency=callers, seconds=seconds)
