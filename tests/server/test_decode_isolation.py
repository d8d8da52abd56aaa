"""`--decode-isolation process`: the same results, no process is left when the server ends."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

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
    children = [
        child
        for child in psutil.Process().children(recursive=True)
        if "poolservice_server.images.decode_child" in child.cmdline()
    ]
    assert len(children) == 2
    service.stop()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
