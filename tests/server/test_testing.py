"""What users' tests stand on: a real service, and the pytest fixture that shares one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from poolservice_client import GlobalAvgPool2d, PoolClient, Unavailable
from poolservice_server.testing import ServiceFailed, serve

USERS_TEST = """
from poolservice_client import MaxPool2d, PoolClient

pytest_plugins = ["poolservice_server.testing.plugin"]


def test_my_pipeline(pool_service):
    with PoolClient(pool_service.address) as client:
        assert client.pool([[[1.0, 2.0], [3.0, 4.0]]], MaxPool2d(2)).item() == 4.0
"""


def test_a_service_lives_as_long_as_its_block() -> None:
    with serve("--max-queue-items", "7") as service, PoolClient(service.address) as client:
        assert client.pool(np.ones((1, 2, 2), np.float32), GlobalAvgPool2d()).item() == 1.0
        assert client.server_info().limits.max_queue_items == 7
    assert service.process.returncode == 0
    with PoolClient(service.address, timeout=5) as client, pytest.raises(Unavailable):
        client.server_info()


def test_a_service_is_ended_with_the_block_that_failed() -> None:
    with pytest.raises(ZeroDivisionError), serve() as service:
        raise ZeroDivisionError
    assert service.process.returncode is not None


def test_a_service_that_does_not_start_says_why() -> None:
    with pytest.raises(ServiceFailed, match="must be HOST:PORT"), serve("--address", "nowhere"):
        pass


def test_the_fixture_serves_a_users_test(tmp_path: Path) -> None:
    (tmp_path / "test_users.py").write_text(USERS_TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
