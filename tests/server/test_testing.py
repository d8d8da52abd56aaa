"""`poolservice_server.testing`, for users' tests: a real service, and the pytest fixture that shares one."""

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


def test_a_service_runs_until_the_end_of_the_block() -> None:
    with serve("--max-queue-items", "7") as service, PoolClient(service.address) as client:
        assert client.pool(np.ones((1, 2, 2), np.float32), GlobalAvgPool2d()).item() == 1.0
        assert client.server_info().limits.max_queue_items == 7
    assert service.process.returncode == 0
    with PoolClient(service.address, timeout=5) as client, pytest.raises(Unavailable):
        client.server_info()


def test_settings_in_the_environment_do_not_reach_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLSERVICE_MAX_QUEUE_ITEMS", "9")
    with (
        serve(env={"POOLSERVICE_MAX_BATCH_SIZE": "5"}) as service,
        PoolClient(service.address) as client,
    ):
        limits = client.server_info().limits
    assert (limits.max_queue_items, limits.max_batch_size) == (1024, 5)
    assert (limits.max_request_seconds, limits.caller_max_requests) == (10, 896)


def test_an_exception_in_the_block_ends_the_service() -> None:
    with pytest.raises(ZeroDivisionError), serve() as service:
        raise ZeroDivisionError
    assert service.process.returncode is not None


def test_the_error_of_a_service_that_does_not_start_contains_its_log() -> None:
    with pytest.raises(ServiceFailed, match="must be HOST:PORT"), serve("--address", "nowhere"):
        pass


def test_the_fixture_serves_a_users_test(tmp_path: Path) -> None:
    (tmp_path / "test_users.py").write_text(USERS_TEST)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "1 passed" in ended.stdout
