"""The process that generates load: a grpc.aio client that sends the encoded messages of the jobs.

It is a process of its own, so that the server's time is not that of the measuring program. The server never imports the
SDK, so it speaks gRPC itself: one message per call, nothing retried, and one connection or more to each worker, as the
SDK has.
"""

import asyncio
import signal
import time
from array import array
from collections.abc import Sequence
from multiprocessing.connection import Connection

import grpc
import grpc.aio

from poolservice.codec import decode_batch_response
from poolservice.v1 import pool_pb2
from poolservice_server.tune.job import Job
from poolservice_server.tune.sample import Round, Sample

_SERVICE = "/poolservice.v1.PoolService/"
_OPTIONS = (
    # By default, channels with equal options share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
# The kernel chooses the worker of a new connection at random; after this many per worker, one without is unlikely.
_ATTEMPTS_PER_WORKER = 16
_CALL_SECONDS = 60.0
_WARM_UP = 0.2

_UnaryCall = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


class _Failed(Exception):
    """A call failed; the message has the server's status and words."""


def run(pipe: Connection, jobs: Sequence[Job]) -> None:
    """Generate the load of each `Round` in the pipe and send a `Sample`, until the pipe ends."""
    # Ctrl-C reaches the whole process group. The measuring program ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(pipe, jobs))


async def _serve(pipe: Connection, jobs: Sequence[Job]) -> None:
    loop = asyncio.get_running_loop()
    servers: dict[str, _Server] = {}
    while True:
        try:
            request: Round | str = await loop.run_in_executor(None, pipe.recv)
        except EOFError:
            return
        if isinstance(request, str):
            # The address of a server that is about to stop.
            if server := servers.pop(request, None):
                await server.close()
            continue
        server = servers.setdefault(request.address, _Server(request.address))
        pipe.send(await _measure(server, jobs[request.job], request))


async def _measure(server: "_Server", job: Job, request: Round) -> Sample:
    latencies = array("d")
    started = time.perf_counter()
    try:
        calls = await server.calls(job)
        await _keep_calling(calls, job, request.concurrency, _WARM_UP * request.seconds, array("d"))
        started = time.perf_counter()
        await _keep_calling(calls, job, request.concurrency, request.seconds, latencies)
    except* _Failed as failed:
        failure = str(failed.exceptions[0])
    else:
        failure = ""
    return Sample(len(latencies), time.perf_counter() - started, latencies.tobytes(), failure)


async def _keep_calling(
    calls: Sequence[_UnaryCall], job: Job, concurrency: int, seconds: float, latencies: "array[float]"
) -> None:
    stop = time.perf_counter() + seconds

    async def caller(call: _UnaryCall) -> None:
        while True:
            began = time.perf_counter()
            await _call(call, job)
            ended = time.perf_counter()
            latencies.append(ended - began)
            if ended >= stop:
                return

    async with asyncio.TaskGroup() as callers:
        for number in range(concurrency):
            callers.create_task(caller(calls[number % len(calls)]))


async def _call(call: _UnaryCall, job: Job) -> None:
    try:
        response = await call(job.message, timeout=_CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise _Failed(f"{error.code().name}: {error.details()}") from None
    if job.is_batch:
        for status, _ in decode_batch_response(response):
            if status.code:
                raise _Failed(f"{_STATUSES[status.code].name}: {status.message}")


# From the number of a status to gRPC's name of it.
_STATUSES = {code.value[0]: code for code in grpc.StatusCode}


class _Server:
    """The connections to one server: at least one to each of its workers."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channels: dict[int, grpc.aio.Channel] = {}

    async def calls(self, job: Job) -> list[_UnaryCall]:
        """Return the method of the job on each connection."""
        if not self._channels:
            await self._connect()
        method = f"{_SERVICE}{'PoolBatch' if job.is_batch else 'Pool'}"
        return [self._channels[worker].unary_unary(method) for worker in sorted(self._channels)]

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close()

    async def _connect(self) -> None:
        """Open connections until each worker has one, as far as the kernel lets them reach it."""
        workers, attempts = 1, 0
        while len(self._channels) < workers and attempts < workers * _ATTEMPTS_PER_WORKER:
            attempts += 1
            channel = grpc.aio.insecure_channel(self._address, options=_OPTIONS)
            info = await self._server_info(channel)
            workers = info.workers
            if self._channels.setdefault(info.worker, channel) is not channel:
                await channel.close()

    async def _server_info(self, channel: grpc.aio.Channel) -> pool_pb2.GetServerInfoResponse:
        call = channel.unary_unary(
            f"{_SERVICE}GetServerInfo",
            request_serializer=pool_pb2.GetServerInfoRequest.SerializeToString,
            response_deserializer=pool_pb2.GetServerInfoResponse.FromString,
        )
        try:
            return await call(pool_pb2.GetServerInfoRequest(), wait_for_ready=True, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _Failed(f"{error.code().name}: {error.details()}") from None
