"""How the process ends although a thread or the event loop computes something, and how a crashed worker is replaced."""

import io
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from PIL import Image
from tests.server.server_log import wait_for_log

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_client import GlobalAvgPool2d, PoolClient
from poolservice_server.testing import Service

StartServer = Callable[..., Service]

TIMEOUT_SECONDS = 60
COMMAND = (sys.executable, str(Path(__file__).with_name("server_that_blocks.py")))


@pytest.fixture
def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(file, "PNG")
    return file.getvalue()


def start_call(stub: PoolServiceStub, png: bytes, fault: str) -> "grpc.Future[Any]":
    """Make the call that meets a fault of the server."""
    if fault == "loop":
        return stub.GetServerInfo.future(pb.GetServerInfoRequest(), timeout=TIMEOUT_SECONDS)
    specs = [pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())]
    return stub.Pool.future(pb.PoolRequest(specs=specs, image=pb.Image(data=png)), timeout=TIMEOUT_SECONDS)


def call_until_the_end(server: Service, png: bytes, fault: str) -> threading.Thread:
    """Make a call that blocks the server, and return once it does; the thread ends with the call."""

    def call() -> None:
        with grpc.insecure_channel(server.address) as channel:
            call = start_call(PoolServiceStub(channel), png, fault)
            assert call.exception() is not None

    caller = threading.Thread(target=call)
    caller.start()
    wait_for_log(server, "blocked")
    return caller


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["process", "workers"])
@pytest.mark.parametrize("fault", ["thread", "loop"])
@pytest.mark.parametrize("signals", [1, 2])
def test_the_process_ends_although_work_goes_on(
    start_server: StartServer, png: bytes, flags: tuple[str, ...], fault: str, signals: int
) -> None:
    # After two signals nothing waits for the grace period, which is longer than the test may take.
    grace_period = "1" if signals == 1 else "3600"
    server = start_server("--grace-period", grace_period, *flags, command=COMMAND, env={"FAULT": fault})
    workers = psutil.Process(server.process.pid).children(recursive=True)
    caller = call_until_the_end(server, png, fault)
    server.process.send_signal(signal.SIGTERM)
    if signals == 2:
        # Two signals that arrive together count as one.
        wait_for_log(server, "stopping")
        server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(TIMEOUT_SECONDS) == 0
    caller.join()
    _, alive = psutil.wait_procs(workers, TIMEOUT_SECONDS)
    assert not alive


def test_a_stopped_process_does_not_wait_for_work_that_nobody_waits_for(start_server: StartServer, png: bytes) -> None:
    server = start_server("--grace-period", "3600", command=COMMAND, env={"FAULT": "thread"})
    with grpc.insecure_channel(server.address) as channel:
        call = start_call(PoolServiceStub(channel), png, "thread")
        wait_for_log(server, "blocked")
        call.cancel()
    assert server.stop() == 0


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["process", "workers"])
def test_signals_that_arrive_while_the_process_ends_do_not_change_its_exit_status(
    start_server: StartServer, flags: tuple[str, ...]
) -> None:
    server = start_server(*flags)
    while server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        # Without a pause, the process would only handle signals, and could not end.
        time.sleep(0.001)
    assert server.process.returncode == 0


def test_a_crashed_worker_costs_only_calls_that_the_client_retries(
    start_server: StartServer, tmp_path: Path, png: bytes
) -> None:
    server = start_server(
        *("--workers", "2", "--log-format", "json"),
        command=COMMAND,
        env={"FAULT": "crash", "FAULT_FOLDER": str(tmp_path)},
    )
    with PoolClient(server.address, timeout=TIMEOUT_SECONDS) as client:
        result = client.pool(png, GlobalAvgPool2d())
        assert client.stats().retries >= 1
    np.testing.assert_allclose(result, 0.2, rtol=1e-6)
    assert (tmp_path / "crashed").exists()
    wait_for_log(server, "a worker has ended")
    events = [json.loads(line) for line in server.log().splitlines()]
    (ended,) = [event for event in events if event["event"] == "a worker has ended"]
    # A worker that has served is replaced without a pause.
    assert (ended["exit_status"], ended["restart_in_seconds"]) == (-signal.SIGSEGV, 0.0)
    # The stack of the crashed worker, of which the supervisor makes events.
    assert any("Segmentation fault" in event["event"] for event in events)
    assert any("crash_or_decode" in event["event"] for event in events)
