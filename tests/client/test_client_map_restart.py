"""A server that is killed and comes back in the middle of a map: no item is lost, none comes twice."""

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

PICTURES = 5000
#: After so many answers the server is killed.
KILLED_AFTER = (1200, 3100)


class Restarting:
    """A server at an address of its own that is killed, and started again while the map goes on."""

    def __init__(self, start: Callable[..., Service], port: int, threads: ThreadPoolExecutor) -> None:
        self._start_at = partial(start, "--address", f"127.0.0.1:{port}")
        self._threads = threads
        self._service: Service = self._start_at()
        self.address = self._service.address
        self.restarts = 0

    def restart(self) -> None:
        """Kill it now; it is back in some seconds."""
        self._service.kill()
        coming = self._threads.submit(self._start_at)
        coming.add_done_callback(lambda started: setattr(self, "_service", started.result()))
        self.restarts += 1


@pytest.fixture
def restarting(start_server: Callable[..., Service], free_port: Callable[[], int]) -> Iterator[Restarting]:
    with ThreadPoolExecutor(1) as threads:
        yield Restarting(start_server, free_port(), threads)


def picture(number: int) -> bytes:
    """A picture whose colour says which it is."""
    file = io.BytesIO()
    Image.new("RGB", (24, 20), (number % 256, number // 256, 255 - number % 256)).save(file, "PNG")
    return file.getvalue()


def number_of(y: Any) -> int:
    red, green, blue = np.rint(y * 255).astype(int)
    assert red + blue == 255
    return int(red + 256 * green)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.timeout(180)
def test_two_restarts_lose_and_double_nothing(restarting: Restarting, ordered: bool) -> None:
    pictures = (picture(number) for number in range(PICTURES))
    got = []
    with PoolClient(restarting.address, timeout=120) as client:
        for index, y in client.map(pictures, GlobalAvgPool2d(), output="features", ordered=ordered, indexed=True):
            assert number_of(y) == index
            got.append(index)
            if len(got) in KILLED_AFTER:
                restarting.restart()
    assert restarting.restarts == 2
    assert (got if ordered else sorted(got)) == list(range(PICTURES))


@pytest.mark.timeout(180)
async def test_nor_do_they_for_the_twin(restarting: Restarting) -> None:
    async def pictures() -> AsyncIterator[bytes]:
        for number in range(PICTURES):
            yield picture(number)

    got = []
    async with AsyncPoolClient(restarting.address, timeout=120) as client:
        async for y in client.map(pictures(), GlobalAvgPool2d(), output="features"):
            got.append(number_of(y))
            if len(got) in KILLED_AFTER:
                await asyncio.to_thread(restarting.restart)
    assert restarting.restarts == 2
    assert got == list(range(PICTURES))
