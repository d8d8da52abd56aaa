"""The loads of a timeline: what the client does during the second that is drawn."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from children import Server
from jobs import tensor_request
from poolservice import codec
from poolservice_client import AsyncPoolClient, GlobalAvgPool2d, MaxPool2d, PoolClient, PoolSpec
from timeline_client import RecordingSelector
from timeline_spans import Recorder, Step

CALLERS = 32

_STREAM = "/poolservice.v1.PoolService/PoolStream"
_STREAM_WINDOW = 32
_WARM_UP_SECONDS = 0.6
# The load goes on after the second that is drawn, so that its end is like its middle.
_COOL_DOWN_SECONDS = 0.1

_MEAN = GlobalAvgPool2d()


class Measured(NamedTuple):
    """A complete load, and the second of it that is drawn.

    Attributes:
        began, ended: the first and the last moment of the load.
        start, end: the drawn second.
        rate: items per second in the drawn second.
        client_cores: the CPU time of the client per second: how many cores it used, on average.
        server_cores: the same for the server.
        waiting: how many threads of both were ready to run and had no core, on average. If it is large, the machine is
            short of cores, and a side that waits for one counts as busy.
    """

    began: int
    ended: int
    start: int
    end: int
    rate: float
    client_cores: float
    server_cores: float
    waiting: float


class _Reading(NamedTuple):
    """The state at one moment: seconds of CPU time, and of waiting for a core; items that are done."""

    moment: int
    client: float
    server: float
    waited: float
    done: int


def _waited(process: int) -> float:
    """Return the seconds that the threads of a process were ready to run and had no core."""
    nanoseconds = 0
    for file in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            nanoseconds += int(file.read_text().split()[1])
    return nanoseconds / 1e9


class Clock(threading.Thread):
    """Reads the times of client and server at the start and the end of the drawn second, and counts items.

    Attributes:
        done: the number of items that have a result; whoever gets a result adds one.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self._server = server
        self._began = time.monotonic_ns()
        self._readings: list[_Reading] = []
        self.start()

    @property
    def is_over(self) -> bool:
        """True once the load should end."""
        return time.monotonic_ns() - self._began > (_WARM_UP_SECONDS + 1 + _COOL_DOWN_SECONDS) * 1e9

    def run(self) -> None:
        """Take the readings."""
        time.sleep(_WARM_UP_SECONDS)
        self._read()
        time.sleep(1.0)
        self._read()

    def measured(self) -> Measured:
        """Return the load, which ends now."""
        self.join()
        first, last = self._readings
        seconds = (last.moment - first.moment) / 1e9
        return Measured(
            self._began,
            time.monotonic_ns(),
            first.moment,
            last.moment,
            (last.done - first.done) / seconds,
            (last.client - first.client) / seconds,
            (last.server - first.server) / seconds,
            (last.waited - first.waited) / seconds,
        )

    def _read(self) -> None:
        by_process = self._server.cpu_seconds()
        waited = sum(map(_waited, (os.getpid(), *by_process)))
        server = sum(by_process.values())
        self._readings.append(_Reading(time.monotonic_ns(), time.process_time(), server, waited, self.done))


class Load(NamedTuple):
    """One load.

    Attributes:
        name: its name on the command line.
        title: what the client does.
        run: does it for as long as the clock says.
    """

    name: str
    title: str
    run: Callable[[Server, Recorder, Clock], None]


def make_loads() -> list[Load]:
    """Return all loads."""
    random = np.random.default_rng(0)
    tensors = {
        size: random.random(shape, np.float32)
        for size, shape in (("100 KB", (512, 7, 7)), ("2 KB", (8, 8, 8)), ("602 KB", (3, 224, 224)))
    }
    # Tensors of different shapes are not stacked into one request, so that map sends them with PoolBatch.
    mixed = [random.random((512 - number, 7, 7), np.float32) for number in range(8)]
    loads = [
        Load(f"pool-{_slug(size)}", f"{CALLERS} tasks of pool(), {size}", partial(_pool, tensors[size]))
        for size in ("100 KB", "2 KB")
    ]
    for size in ("2 KB", "100 KB", "602 KB"):
        spec: PoolSpec[Any] = MaxPool2d(2) if size == "602 KB" else _MEAN
        loads += [
            Load(f"map-{_slug(size)}", f"map, threads, {size}", partial(_map, [tensors[size]], spec)),
            Load(f"map-{_slug(size)}-aio", f"map, asyncio, {size}", partial(_map_async, [tensors[size]], spec)),
        ]
    return [
        *loads,
        Load("batch", "PoolBatch: map, asyncio, mixed shapes, 98 to 100 KB", partial(_map_async, mixed, _MEAN)),
        Load("stream", f"PoolStream: {_STREAM_WINDOW} requests in flight, 100 KB", partial(_stream, tensors["100 KB"])),
    ]


def _run(recorder: Recorder, main: Any) -> None:
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(RecordingSelector(recorder))) as runner:
        runner.run(main)


def _pool(x: NDArray[Any], server: Server, recorder: Recorder, clock: Clock) -> None:
    async def main() -> None:
        async with AsyncPoolClient(server.address, coalesce=True) as client:

            async def caller() -> None:
                while not clock.is_over:
                    await client.pool(x, _MEAN)
                    clock.done += 1

            await asyncio.gather(*(caller() for _ in range(CALLERS)))

    _run(recorder, main())


def _inputs(xs: list[NDArray[Any]], clock: Clock) -> Iterator[NDArray[Any]]:
    while not clock.is_over:
        yield from xs


def _map(xs: list[NDArray[Any]], spec: PoolSpec[Any], server: Server, _recorder: Recorder, clock: Clock) -> None:
    with PoolClient(server.address) as client:
        for _ in client.map(_inputs(xs, clock), spec):
            clock.done += 1


def _map_async(xs: list[NDArray[Any]], spec: PoolSpec[Any], server: Server, recorder: Recorder, clock: Clock) -> None:
    async def main() -> None:
        async with AsyncPoolClient(server.address) as client:
            async for _ in client.map(_inputs(xs, clock), spec):
                clock.done += 1

    _run(recorder, main())


def _stream(x: NDArray[Any], server: Server, recorder: Recorder, clock: Clock) -> None:
    """Use PoolStream as a user of the proto would; the SDK has no method for it."""
    request = tensor_request(x, _MEAN)
    encode = recorder.timed(Step.CLIENT_ENCODE, codec.encode_stream_request)
    decode = recorder.timed(Step.CLIENT_DECODE, _decode_stream_response)

    async def main() -> None:
        window = asyncio.Semaphore(_STREAM_WINDOW)
        async with grpc.aio.insecure_channel(server.address) as channel:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(_STREAM)()

            async def send() -> None:
                number = 0
                while not clock.is_over:
                    await window.acquire()
                    message = encode(number := number + 1, request)
                    recorder.mark(Step.REQUEST_SENT)
                    await call.write(message)
                await call.done_writing()

            sending = asyncio.create_task(send())
            while (message := await call.read()) is not grpc.aio.EOF:
                recorder.mark(Step.RESPONSE_RECEIVED)
                decode(message)
                clock.done += 1
                window.release()
            await sending

    _run(recorder, main())


def _decode_stream_response(message: bytes) -> codec.Response:
    _, status, response = codec.decode_stream_response(message)
    if response is None:
        raise RuntimeError(f"a request of the stream failed: {status}")
    return codec.decode_response(response)


def _slug(size: str) -> str:
    return size.replace(" ", "").lower()
