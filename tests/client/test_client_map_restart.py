"""A server that is killed and restarted during a map: no item is lost, and none is yielded twice."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from poolservice_client import AsyncPoolClient, GlobalAvgPool2d, PoolClient
from poolservice_server.testing import Service

IMAGES = 5000
#: The server is killed after these numbers of results.
KILLED_AFTER = (1200, 3100)


class Restarting:
    """A server that is killed and started again at the same address while the map goes on."""

    def __init__(self, start: Callable[..., Service], port: int, threads: ThreadPoolExecutor) -> None:
        self._start_at = partial(start, "--address", f"127.0.0.1:{port}")
        self._threads = threads
        self._service: Service = self._start_at()
        self.address = self._service.address
        self.restarts = 0

    def restart(self) -> None:
        """Kill the server now; it is back after some seconds."""
        self._service.kill()
        starting = self._threads.submit(self._start_at)
        starting.add_done_callback(lambda started: setattr(self, "_service", started.result()))
        self.restarts += 1


@pytest.fixture
def restarting(start_server: Callable[..., Service], free_port: Callable[[], int]) -> Iterator[Restarting]:
    with ThreadPoolExecutor(1) as threads:
        yield Restarting(start_server, free_port(), threads)


def image(number: int) -> bytes:
    """An image whose color encodes its number."""
    file = io.BytesIO()
    Image.new("RGB", (24, 20), (number % 256, number // 256, 255 - number % 256)).save(file, "PNG")
    return file.getvalue()


def number_of(y: Any) -> int:
    red, green, blue = np.rint(y * 255).astype(int)
    assert red + blue == 255
    return int(red + 256 * green)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.timeout(180)
def test_two_restarts_lose_and_duplicate_nothing(restarting: Restarting, ordered: bool) -> None:
    images = (image(number) for number in range(IMAGES))
    indices = []
    with PoolClient(restarting.address, timeout=120) as client:
        for item in client.map(images, GlobalAvgPool2d(), output="features", ordered=ordered, items=True):
            assert item.error is None
            assert number_of(item.result) == item.index
            indices.append(item.index)
            if len(indices) in KILLED_AFTER:
                restarting.restart()
    assert restarting.restarts == 2
    assert (indices if ordered else sorted(indices)) == list(range(IMAGES))


@pytest.mark.timeout(180)
async def test_two_restarts_lose_and_duplicate_nothing_with_asyncio(restarting: Restarting) -> None:
    async def images() -> AsyncIterator[bytes]:
        for number in range(IMAGES):
            yield image(number)

    numbers = []
    async with AsyncPoolClient(restarting.address, timeout=120) as client:
        async for y in client.map(images(), GlobalAvgPool2d(), output="features"):
            numbers.append(number_of(y))
            if len(numbers) in KILLED_AFTER:
                await asyncio.to_thread(restarting.restart)
    assert restarting.restarts == 2
    assert numbers == list(range(IMAGES))
