"""Calls a service with every kind of call until standard input ends, and checks each result against numpy.

    python container_load.py ADDRESS KIND...

For each line on standard input, it waits until every kind of call has been right ten more times, and writes a line. At
the end it writes the counts as JSON. It needs only what the client's container image has.
"""

import asyncio
import io
import json
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
from PIL import Image

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_client import AsyncPoolClient, GlobalAvgPool2d, MaxPool2d, PoolClient, PoolError

SMALL, LARGE = (3, 16, 16), (8, 256, 256)
_CALLS_PER_LINE = 10
_WAIT_SECONDS = 60.0
_CALL_SECONDS = 30.0
_ROUND_ROBIN = '{"loadBalancingConfig": [{"round_robin": {}}]}'

Planes = np.ndarray[Any, np.dtype[np.float32]]


class Load:
    """Threads that call the service. Each kind of call has a client of its own.

    Attributes:
        right: the number of right results, by kind.
        failed: the errors, by kind and message. Only `raw`, a client without retries, may have some.
        wrong: the number of wrong results, by kind.
        retries: the retries of each client.
    """

    def __init__(self, address: str, kinds: list[str]) -> None:
        self.right: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self._address = address
        self._kinds = kinds
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        calls: dict[str, Callable[[], None]] = {
            "small": partial(self._pool, "small", SMALL, threads=4),
            "large": partial(self._pool, "large", LARGE, threads=1),
            "image": self._image,
            "map": self._map,
            "asyncio": self._asyncio,
            "raw": self._raw,
        }
        self._threads = [threading.Thread(target=calls[kind]) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def wait(self) -> bool:
        """Wait until each kind of call has been right some more times; return False if that takes too long."""
        targets = {kind: self.right[kind] + _CALLS_PER_LINE for kind in self._kinds}
        with self._changed:
            return self._changed.wait_for(
                lambda: all(self.right[kind] >= target for kind, target in targets.items()), _WAIT_SECONDS
            )

    def stop(self) -> None:
        """Let each thread finish its call, and wait for it."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _count(self, counter: Counter[str], key: str) -> None:
        with self._changed:
            counter[key] += 1
            self._changed.notify_all()

    def _call(self, kind: str, call: Callable[[], Any], expected: Planes) -> None:
        try:
            result = call()
        except PoolError as error:
            self._count(self.failed, f"{kind}: {error}")
        else:
            self._compare(kind, result, expected)

    def _compare(self, kind: str, result: Any, expected: Planes) -> None:
        self._count(self.right if np.allclose(result, expected, rtol=1e-6) else self.wrong, kind)

    def _pool(self, kind: str, shape: tuple[int, ...], threads: int) -> None:
        with PoolClient(self._address, timeout=_CALL_SECONDS) as client:

            def call(seed: int) -> None:
                for x in self._inputs(shape, seed):
                    self._call(kind, partial(client.pool, x, MaxPool2d(2)), maxima(x))

            callers = [threading.Thread(target=call, args=(seed,)) for seed in range(threads)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
            self.retries[kind] = client.stats().retries

    def _image(self) -> None:
        with PoolClient(self._address, timeout=_CALL_SECONDS) as client:
            for x in self._inputs((64, 64, 3), 0):
                pixels = (x * 255).astype(np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                means = (pixels / 255).mean((0, 1)).reshape(3, 1, 1)
                self._call("image", partial(client.pool, file.getvalue(), GlobalAvgPool2d()), means)
            self.retries["image"] = client.stats().retries

    def _map(self) -> None:
        # One map for the whole time.
        sent: deque[Planes] = deque()

        def inputs() -> Iterator[Planes]:
            for x in self._inputs(SMALL, 0):
                sent.append(x)
                yield x

        with PoolClient(self._address, timeout=_CALL_SECONDS) as client:
            results = client.map(inputs(), MaxPool2d(2))
            try:
                for result in results:
                    self._compare("map", result, maxima(sent.popleft()))
            except PoolError as error:
                self._count(self.failed, f"map: {error}")
            self.retries["map"] = client.stats().retries

    def _asyncio(self) -> None:
        async def call(client: AsyncPoolClient, seed: int) -> None:
            for x in self._inputs(SMALL, seed):
                try:
                    result = await client.pool(x, MaxPool2d(2))
                except PoolError as error:
                    self._count(self.failed, f"asyncio: {error}")
                else:
                    self._compare("asyncio", result, maxima(x))

        async def calls() -> None:
            async with AsyncPoolClient(self._address, timeout=_CALL_SECONDS) as client:
                await asyncio.gather(*(call(client, seed) for seed in range(4)))
                self.retries["asyncio"] = client.stats().retries

        asyncio.run(calls())

    def _raw(self) -> None:
        spec = pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[2]))
        options = [
            ("grpc.service_config", _ROUND_ROBIN),
            ("grpc.enable_retries", 0),
            ("grpc.dns_min_time_between_resolutions_ms", 1000),
        ]
        with grpc.insecure_channel(self._address, options) as channel:
            stub = PoolServiceStub(channel)
            for x in self._inputs(SMALL, 0):
                tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes())
                try:
                    response = stub.Pool(pb.PoolRequest(tensor=tensor, specs=[spec]), timeout=_CALL_SECONDS)
                except grpc.RpcError as error:
                    self._count(self.failed, f"raw: {error.code().name}: {error.details()}")
                    continue
                result = response.results[0].tensor
                self._compare("raw", np.frombuffer(result.data, np.float32).reshape(result.shape), maxima(x))

    def _inputs(self, shape: tuple[int, ...], seed: int) -> Iterator[Planes]:
        generator = np.random.default_rng(seed)
        while not self._stopped.is_set():
            yield generator.random(shape, np.float32)


def maxima(x: Planes) -> Planes:
    """Return the maxima of windows of 2x2."""
    planes, height, width = x.shape
    return x.reshape(planes, height // 2, 2, width // 2, 2).max((2, 4))  # type: ignore[no-any-return]


def main() -> None:
    """Run the load."""
    load = Load(sys.argv[1], sys.argv[2:])
    for _ in sys.stdin:
        print("right" if load.wait() else f"waited too long: {dict(load.right)}, {dict(load.failed)}", flush=True)
    load.stop()
    counts = {name: dict(getattr(load, name)) for name in ("right", "wrong", "failed", "retries")}
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
