"""Use one service for a long time in every way, hostile ones included, and fail if it grows.

    make soak MINUTES=60             python -m tests.chaos.soak [--minutes M] [--seed S]

Good calls run beside cancelled calls, invalid requests, damaged images, damaged HTTP/2 frames and connections that are
left in the middle. Ten samples are taken: resident memory, threads, file descriptors and the caches in the metrics.
The second half of the samples may not lie above the first half by more than the bounds below.
"""

import argparse
import re
import socket
import sys
import time
import urllib.request
from random import Random
from typing import NamedTuple

import numpy as np
import psutil
from tests.chaos.clients import Clients
from tests.fuzz import frames, images

from poolservice_client import MaxPool2d, PoolClient
from poolservice_client.errors import PoolError
from poolservice_server.testing import Service, serve

_SAMPLES = 10
_MAX_RSS_GROWTH = 100 * 2**20
_MAX_THREAD_GROWTH = 4
_MAX_DESCRIPTOR_GROWTH = 16
_MAX_CACHE_GROWTH = 32 * 2**20


class Sample(NamedTuple):
    """The size of a service: bytes of resident memory, threads, file descriptors, bytes of all caches."""

    rss: int
    threads: int
    descriptors: int
    caches: int


def main() -> int:
    """Run the load; return 1 if the service grew or a good call failed."""
    parser = argparse.ArgumentParser(prog="make soak", description="Use one service for a long time.")
    parser.add_argument("--minutes", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args()
    random = Random(options.seed)
    with serve("--device", "cpu", "--metrics-address", "127.0.0.1:0") as service:
        clients = Clients(service.address, 2, timeout=30.0)
        samples = []
        try:
            with PoolClient(service.address, timeout=30.0) as client:
                for _ in range(_SAMPLES + 1):
                    end = time.monotonic() + 60 * options.minutes / (_SAMPLES + 1)
                    while time.monotonic() < end:
                        _be_hostile(service, client, random)
                    samples.append(_sample(service))
                    print(*(f"{name} {value}" for name, value in samples[-1]._asdict().items()), flush=True)
        finally:
            clients.stop()
    # The first sample includes what the service loads and caches once.
    grown = growth(samples[1:])
    print(
        f"{clients.right} calls right, {clients.wrong} wrong, {clients.failed or 'none'} failed; grown: {grown or 'no'}"
    )
    return int(bool(grown or clients.wrong or clients.failed))


def growth(samples: list[Sample]) -> list[str]:
    """Return what grew from the first half of the samples to the second by more than its bound."""
    half = len(samples) // 2
    bounds = Sample(_MAX_RSS_GROWTH, _MAX_THREAD_GROWTH, _MAX_DESCRIPTOR_GROWTH, _MAX_CACHE_GROWTH)
    grown = []
    for name, bound in bounds._asdict().items():
        before = max(getattr(sample, name) for sample in samples[:half])
        after = min(getattr(sample, name) for sample in samples[half:])
        if after > before + bound:
            grown.append(f"{name} from {before} to {after}")
    return grown


def _be_hostile(service: Service, client: PoolClient, random: Random) -> None:
    """Do one thing that a good client does not."""
    match random.randrange(4):
        case 0:
            _call(client, images.generate(random)[1:])
        case 1:
            # Each shape and kernel is new to the server.
            size = random.randint(1, 400)
            _call(client, np.zeros((1, size, random.randint(1, 400)), np.uint8), random.randint(1, 400))
        case 2:
            _send(service, frames.generate(random), read=random.random() < 0.5)
        case _:
            whole = frames.generate(random)
            _send(service, whole[: random.randrange(len(whole))], read=False)


def _call(client: PoolClient, data: bytes | np.ndarray, kernel: int = 2) -> None:
    try:
        client.pool(data, MaxPool2d(kernel, 1))
    except (PoolError, ValueError):
        return  # refused, as it should be


def _send(service: Service, data: bytes, *, read: bool) -> None:
    host, port = service.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 20.0) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while read and connection.recv(65536):
                pass
        except ConnectionError:
            return  # the server closed a connection that broke the protocol


def _sample(service: Service) -> Sample:
    process = psutil.Process(service.process.pid)
    url = re.search(r"http://[\w.:\[\]]+/metrics", service.log())
    assert url is not None, "the log names no metrics address"
    with urllib.request.urlopen(url[0], timeout=20.0) as response:
        metrics = response.read().decode()
    caches = sum(
        float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line.startswith("poolservice_cache_bytes")
    )
    return Sample(process.memory_info().rss, process.num_threads(), process.num_fds(), int(caches))


if __name__ == "__main__":
    sys.exit(main())
