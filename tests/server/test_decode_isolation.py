"""Decoding in threads and in processes: the same results, work that stops, no process that outlives the server."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from PIL import Image
from tests.scraping import scrape

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_client import MaxPool2d, PoolClient
from poolservice_server.testing import Service

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="child processes decode on Linux only")


def test_images_are_decoded_in_child_processes(
    start_server: Callable[..., Service], server_address: str, photograph: Path
) -> None:
    service = start_server("--decode-isolation", "process", "--decode-threads", "2")
    with PoolClient(service.address) as isolated, PoolClient(server_address) as threaded:
        result = isolated.pool(photograph, MaxPool2d(16))
        assert np.array_equal(np.asarray(result), np.asarray(threaded.pool(photograph, MaxPool2d(16))))
    children = decoding_children(service)
    assert len(children) == 2
    service.stop()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def decoding_children(service: Service) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(service.process.pid).children(recursive=True)
        if "poolservice_server.images.decode_child" in child.cmdline()
    ]


def holds_an_image(server: int) -> bool:
    """Return True if a server process has an image in memory that it shares with a child."""
    for descriptor in list(Path(f"/proc/{server}/fd").iterdir()):
        # The server may close it meanwhile.
        with suppress(FileNotFoundError):
            if os.readlink(descriptor).startswith("/memfd:image"):
                return True
    return False


def test_a_client_retries_an_image_whose_child_was_killed_from_outside(
    start_server: Callable[..., Service], photograph: Path
) -> None:
    service = start_server("--decode-isolation", "process", "--decode-threads", "1")
    with PoolClient(service.address) as client, ThreadPoolExecutor() as caller:
        # The child may be killed shortly before it gets the image; another one then gets it.
        while not client.stats().retries:
            (child,) = decoding_children(service)
            child.suspend()
            result = caller.submit(client.pool, photograph, MaxPool2d(16))
            while not holds_an_image(child.ppid()):
                assert not result.done()
            child.kill()
            assert np.asarray(result.result()).shape == (3, 37, 32)
    assert "a decoder process was ended from outside" in service.log()


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_decoding_stops_when_its_caller_leaves(start_server: Callable[..., Service], isolation: str) -> None:
    file = BytesIO()
    Image.new("RGB", (6000, 6000), (200, 30, 7)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    slow = data[:end] + data[last:end] * 85 + data[end:]
    request = pb.PoolRequest(
        specs=[pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())], image=pb.Image(data=slow)
    )
    service = start_server(
        *("--decode-isolation", isolation, "--metrics-address", "127.0.0.1:0", "--max-request-seconds", "100")
    )
    with grpc.insecure_channel(service.address) as channel:
        # A caller may leave before a thread has begun to decode, so several callers come and go.
        while not scrape(service).value("poolservice_stopped_work_total"):
            call = PoolServiceStub(channel).Pool.future(request)
            while not scrape(service).value("poolservice_admitted_requests"):
                assert not call.done(), call.exception()
            call.cancel()
            while scrape(service).value("poolservice_admitted_requests"):
                pass
    assert scrape(service).value("poolservice_requests_total", outcome="completed") == 0
