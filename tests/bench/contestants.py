"""The services that `make bench-peers` compares, each with its client, behind one interface."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import children
from children import Server
from http_client import http_calls
from jobs import Job, make_jobs, tensor_request
from load import Measurement, calls_to, closed_loop, closed_loop_of_threads
from poolservice import codec
from poolservice.specs import GlobalAvgPool2d, PoolSpec, from_message
from poolservice_client import AsyncPoolClient, PoolClient

TUNED, PLAIN, MOSEC, RAW = "tuned", "plain", "mosec", "raw"
SDK, COALESCED = "SDK", "coalesced"
SDK_THREADS, COALESCED_THREADS = "SDK threads", "coalesced threads"

# The path of mosec's only route.
_MOSEC_PATH = "/inference"


class PeerJob:
    """A job in the form that each client takes it.

    Args:
        job: the job.
        is_coalesced: whether the SDK coalesces calls of this size.

    Attributes:
        name: the name of the job.
        payload: what the SDK pools: a tensor, or the bytes of an image file.
        body: what mosec gets.
        shape: the shape of a tensor; empty for an image.
        spec: how it is pooled.
    """

    def __init__(self, job: Job, *, is_coalesced: bool) -> None:
        request = codec.decode_request(job.request)
        head = codec.parse_head(request.head)
        self.job = job
        self.name = job.name
        self.body = bytes(request.data)
        self.shape = tuple(head.tensor.shape)
        self.payload: Any = np.frombuffer(self.body, np.float32).reshape(self.shape) if self.shape else self.body
        self.spec: PoolSpec[Any] = from_message(head.specs[0])
        self.is_coalesced = is_coalesced

    def server_arguments(self, mosec_batch: int) -> dict[str, tuple[str, ...]]:
        """Return the arguments of each server; mosec's batches have at most `mosec_batch` requests."""
        operator = "image" if not self.shape else "mean" if isinstance(self.spec, GlobalAvgPool2d) else "max2x2"
        shape = ",".join(map(str, self.shape))
        return {
            TUNED: (*children.ECHO, str(self.job.response_bytes), "--tuned"),
            PLAIN: children.PLAIN,
            MOSEC: (*children.MOSEC, operator, "--shape", shape, "--batch", str(mosec_batch)),
            RAW: children.POOLSERVICE,
        }

    async def check(self, servers: Mapping[str, Server]) -> None:
        """Call the peers once and check their responses.

        Raises:
            ValueError: a response has wrong values.
        """
        for name in (PLAIN, RAW):
            async with calls_to(servers[name].address) as (call,):
                self.job.check(await call(self.job.request))
        async with http_calls(servers[MOSEC].address, _MOSEC_PATH, 1) as (call,):
            values = np.frombuffer(await call(self.body), np.float32)
        if not np.allclose(values, self.job.expected, rtol=1e-5, atol=0):
            raise ValueError(f"{self.job.name}: wrong values from mosec: {values[:4]}")


#: Measures one contestant: the server, the job, the callers, the seconds.
Measure = Callable[[Server, PeerJob, int, float], Awaitable[Measurement]]


class Contestant(NamedTuple):
    """A server with a client.

    Attributes:
        name: as in the tables.
        server: the name of its server.
        measure: measures it.
    """

    name: str
    server: str
    measure: Measure


def make_peer_jobs() -> list[PeerJob]:
    """Return J1 to J4, and tensors of 25 KB."""
    values = np.random.default_rng(1).random((128, 7, 7), np.float32)
    middle = Job(
        "128x7x7",
        "float32 128x7x7, global average",
        tensor_request(values, GlobalAvgPool2d()),
        values.astype(np.float64).mean((1, 2)).astype(np.float32),
    )
    jobs = make_jobs()
    return [PeerJob(one, is_coalesced=one.name in ("J3", "J4")) for one in jobs] + [PeerJob(middle, is_coalesced=True)]


def contestants_of(job: PeerJob) -> list[Contestant]:
    """Return the contestants of a job. If its calls are too large to be coalesced, one client of the SDK is enough."""
    always = [
        Contestant(TUNED, TUNED, _raw),
        Contestant(PLAIN, PLAIN, _raw),
        Contestant(MOSEC, MOSEC, _mosec),
        Contestant(RAW, RAW, _raw),
        Contestant(COALESCED, RAW, _sdk(coalesce=True)),
    ]
    if not job.is_coalesced:
        return always
    return [
        *always,
        Contestant(SDK, RAW, _sdk(coalesce=False)),
        Contestant(COALESCED_THREADS, RAW, _sdk_threads(coalesce=True)),
        Contestant(SDK_THREADS, RAW, _sdk_threads(coalesce=False)),
    ]


async def _raw(server: Server, job: PeerJob, callers: int, seconds: float) -> Measurement:
    async with calls_to(server.address) as calls:
        return await closed_loop(server, calls, job.job.request, concurrency=callers, seconds=seconds)


async def _mosec(server: Server, job: PeerJob, callers: int, seconds: float) -> Measurement:
    async with http_calls(server.address, _MOSEC_PATH, callers) as calls:
        return await closed_loop(server, calls, job.body, concurrency=callers, seconds=seconds)


def _sdk(*, coalesce: bool) -> Measure:
    async def measure(server: Server, job: PeerJob, callers: int, seconds: float) -> Measurement:
        async with AsyncPoolClient(server.address, coalesce=coalesce) as client:

            async def call(payload: Any) -> Any:
                return await client.pool(payload, job.spec)

            calls: Sequence[Any] = [call]
            return await closed_loop(server, calls, job.payload, concurrency=callers, seconds=seconds)

    return measure


def _sdk_threads(*, coalesce: bool) -> Measure:
    async def measure(server: Server, job: PeerJob, callers: int, seconds: float) -> Measurement:
        with PoolClient(server.address, coalesce=coalesce) as client:
            return await asyncio.to_thread(
                closed_loop_of_threads,
                server,
                lambda: client.pool(job.payload, job.spec),
                concurrency=callers,
                seconds=seconds,
            )

    return measure
