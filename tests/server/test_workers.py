"""Several workers on one port, and the plain grpc.aio server under its supervisor."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.testing import Service

StartServer = Callable[..., Service]
PoolSmall = Callable[[PoolServiceStub], float]

TIMEOUT_SECONDS = 60


def reached_workers(address: str, *, count: int) -> set[int]:
    """Open connections until they have reached `count` workers; the test's own timeout ends an endless search."""
    reached: set[int] = set()
    while len(reached) < count:
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            info = PoolServiceStub(channel).GetServerInfo(
                pb.GetServerInfoRequest(), wait_for_ready=True, timeout=TIMEOUT_SECONDS
            )
        assert info.workers == count
        reached.add(info.worker)
    return reached


def worker_processes(supervisor: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(supervisor).children() if "spawn_main" in " ".join(child.cmdline())]


def test_workers_share_a_port_and_one_that_dies_is_restarted(start_server: StartServer) -> None:
    server = start_server("--workers", "2")
    assert "2 workers" in server.ready_line
    assert reached_workers(server.address, count=2) == {0, 1}

    workers = worker_processes(server.process.pid)
    assert len(workers) == 2
    workers[0].send_signal(signal.SIGKILL)
    workers[0].wait(TIMEOUT_SECONDS)
    assert reached_workers(server.address, count=2) == {0, 1}
    # Of both lines about its end and about its start, as of those about the other worker.
    pid = f"pid={workers[0].pid}"
    (ended,) = [line for line in server.log().splitlines() if "a worker has ended" in line]
    assert pid in ended
    assert [line for line in server.log().splitlines() if "a worker is serving" in line and pid in line]

    alive = worker_processes(server.process.pid)
    assert server.stop() == 0
    assert not [process for process in alive if process.is_running()]


def test_workers_finish_accepted_requests_after_ctrl_c(
    start_server: StartServer, small_request: pb.PoolRequest
) -> None:
    server = start_server("--workers", "2", "--max-batch-delay", "10", "--grace-period", "60")
    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        stub.GetServerInfo(pb.GetServerInfoRequest(), wait_for_ready=True, timeout=TIMEOUT_SECONDS)
        pending = stub.Pool.future(small_request, timeout=TIMEOUT_SECONDS)
        # This call follows the request on the same connection, so the server has accepted the request, which now
        # waits for batch-mates.
        stub.GetServerInfo(pb.GetServerInfoRequest())
        assert not pending.done()
        # Ctrl-C in a terminal reaches every process of the group.
        for process in [*worker_processes(server.process.pid), psutil.Process(server.process.pid)]:
            process.send_signal(signal.SIGINT)
        assert np.frombuffer(pending.result().results[0].tensor.data, np.float32)[0] == 2.0
    assert server.process.wait(TIMEOUT_SECONDS) == 0
    assert "second signal" not in server.log()


def test_workers_stop_when_their_supervisor_is_killed(start_server: StartServer) -> None:
    server = start_server("--workers", "2")
    workers = worker_processes(server.process.pid)
    server.process.kill()
    gone, alive = psutil.wait_procs(workers, TIMEOUT_SECONDS)
    assert len(gone) == 2
    assert not alive


_ORPHAN = """
import os, sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from poolservice_server import allocator, worker_process
from poolservice_server.settings import Settings

moment = sys.argv[1]
supervisor_end, worker_end = Pipe()
if moment == "before the import":
    supervisor_end.close()
else:
    # The server calls this first.
    allocator.keep_large_messages = supervisor_end.close
settings = Settings(device="cuda:99" if moment == "before an error" else "cpu", address="127.0.0.1:0")
log = Connection(os.dup(2), readable=False)
stderr, (scrapes, _) = Connection(os.dup(2), readable=False), Pipe()
worker_process._work(settings, 3, worker_end, log, stderr, scrapes)
"""


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("before the import", "the supervisor has ended"),
        ("before an error", "cannot start, and the supervisor has ended"),
        ("before the announcement", "the supervisor has ended"),
    ],
)
def test_a_worker_that_loses_its_supervisor_during_its_start_ends_with_one_error(moment: str, words: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _ORPHAN, moment], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert ended.returncode == 0, ended.stderr
    (error,) = [line for line in ended.stderr.splitlines() if "[info " not in line]
    assert words in error
    assert "worker=3" in error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--address", "unix:/nowhere/pool.sock"], "workers share a TCP port"),
        (["--device", "cuda"], "only one process can drive a GPU: use --workers with --device cpu"),
        (["--address", "203.0.113.1:1"], "cannot listen on 203.0.113.1:1"),
    ],
)
def test_settings_that_workers_cannot_share_are_refused(
    run_server: Callable[..., "subprocess.CompletedProcess[str]"], flags: list[str], words: str
) -> None:
    ended = run_server("--workers", "2", *flags)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_plain_server_is_restarted_after_a_path_that_ends_it(
    start_server: StartServer, pool_small: PoolSmall, call_path: Callable[[str, bytes], grpc.StatusCode | None]
) -> None:
    server = start_server("--plain-server")
    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        assert pool_small(stub) == 2.0
        (worker,) = worker_processes(server.process.pid)
        # A server that ends cancels the call. Old releases of grpcio survive the path, and so may future ones.
        ends = call_path(server.address, b"/\xff") in (grpc.StatusCode.CANCELLED, None)
        if ends:
            worker.wait(TIMEOUT_SECONDS)
        assert result_after_restart(stub, pool_small) == 2.0
    assert ends == ("a worker has ended" in server.log())


def result_after_restart(stub: PoolServiceStub, pool_small: PoolSmall) -> float:
    """Return a result from the new process; calls on the old one's connections fail until gRPC reconnects."""
    while True:
        try:
            return pool_small(stub)
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
                raise


def test_the_plain_server_listens_on_a_unix_socket(
    start_server: StartServer, pool_small: PoolSmall, tmp_path: Path
) -> None:
    server = start_server("--plain-server", "--address", f"unix:{tmp_path}/pool.sock")
    with grpc.insecure_channel(server.address) as channel:
        assert pool_small(PoolServiceStub(channel)) == 2.0
