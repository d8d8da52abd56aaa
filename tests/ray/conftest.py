"""Fixtures for the tests on Ray: a local Ray with Serve, which the tests of this folder share. They run with
`make ray-test`.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from poolservice_server.listen_check import reserve
from poolservice_server.ray.command import APPLICATION, ROUTE_PREFIX, running
from poolservice_server.ray.settings import RaySettings
from poolservice_server.testing import serve

MAX_MESSAGE_BYTES = 2**20

_WAIT_SECONDS = 100.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true.

    Raises:
        TimeoutError: it has not become true.
    """
    end = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {_WAIT_SECONDS} s")
        time.sleep(0.05)


def replica_pids() -> set[int]:
    """Return the processes of the replicas of this test run."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("ray::ServeRepli"):
                found.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


class RayService:
    """The service on Ray.

    Attributes:
        address: its address.
    """

    def __init__(self, address: str, settings: RaySettings) -> None:
        self.address = address
        self._settings = settings
        self._options: dict[str, Any] = {"num_replicas": settings.replicas}

    def scale(self, **options: Any) -> None:
        """Deploy the service again with another number of replicas, unless it has that number, and wait for them.

        Serve starts all replicas anew, as for a new release.

        Args:
            options: num_replicas or autoscaling_config of the deployment.
        """
        import ray.serve

        from poolservice_server.ray.application import application, replica_options

        if options == self._options:
            return
        size = {"ray_actor_options": replica_options(self._settings)["ray_actor_options"]}
        ray.serve.run(application(self._settings, **size, **options), name=APPLICATION, route_prefix=ROUTE_PREFIX)
        self._options = options


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    """Return the folder of Ray's files. Its path is short, because that of a Unix socket must be."""
    pytest.importorskip("ray", reason="Ray is not installed; make ray-test installs it")
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    os.environ["RAY_TMPDIR"] = str(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_service(ray_folder: Path) -> Iterator[RayService]:
    """Return a service with two replicas on a Ray of its own."""
    settings = RaySettings(device="cpu", replicas=2, replica_cpus=0.5, max_message_bytes=MAX_MESSAGE_BYTES)
    with reserve("127.0.0.1:0") as address:
        pass
    with running(settings, address):
        yield RayService(address, settings)


@pytest.fixture
def two_replicas(ray_service: RayService) -> RayService:
    """Return the service with two replicas, whatever the test before did to it."""
    ray_service.scale(num_replicas=2)
    wait_until(lambda: len(replica_pids()) == 2)
    return ray_service


@pytest.fixture(scope="session")
def plain_address() -> Iterator[str]:
    """Return the address of a server without Ray that has the same limits."""
    with serve("--device", "cpu", "--max-message-bytes", str(MAX_MESSAGE_BYTES)) as service:
        yield service.address
