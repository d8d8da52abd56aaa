"""Several workers on one port, and the plain grpc.aio server that stands in for the one with several accepts."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.grpc_adapter import multi_accept

StartServer = Callable[..., Any]

SMALL = pb.PoolRequest(
    specs=[pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())],
    tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 1, 2], data=b"\x01\x03"),
)
PATIENCE_SECONDS = 60


def answer(stub: PoolServiceStub) -> float:
    reply = stub.Pool(SMALL, wait_for_ready=True, timeout=PATIENCE_SECONDS)
    return float(np.frombuffer(reply.results[0].tensor.data, np.float32)[0])


def seen_workers(address: str, *, until: int) -> set[int]:
    """The workers that new connections reach, asked until there are as many as expected."""
    seen: set[int] = set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(seen) < until and time.monotonic() < deadline:
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            info = PoolServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest(), wait_for_ready=True, timeout=10)
        assert info.workers == until
        seen.add(info.worker)
    return seen


def test_workers_share_a_port_and_one_that_dies_is_started_again(start_server: StartServer) -> None:
    server = start_server("--workers", "2")
    assert "2 workers" in server.banner
    assert seen_workers(server.address, until=2) == {0, 1}

    workers = worker_processes(server.process.pid)
    assert len(workers) == 2
    workers[0].send_signal(signal.SIGKILL)
    workers[0].wait(PATIENCE_SECONDS)
    assert seen_workers(server.address, until=2) == {0, 1}
    assert "a worker ended" in server.log()

    alive = worker_processes(server.process.pid)
    assert server.stop() == 0
    assert not [process for process in alive if process.is_running()]


def worker_processes(supervisor: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(supervisor).children() if "spawn_main" in " ".join(child.cmdline())]


def test_ctrl_c_which_reaches_workers_too_lets_them_answer_what_they_accepted(start_server: StartServer) -> None:
    server = start_server("--workers", "2", "--max-batch-delay", "5", "--grace-period", "20")
    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        stub.GetServerInfo(pb.GetServerInfoRequest(), wait_for_ready=True, timeout=PATIENCE_SECONDS)
        reply = stub.Pool.future(SMALL, timeout=PATIENCE_SECONDS)
        # On the same connection, so that it comes after the request that now waits for company.
        stub.GetServerInfo(pb.GetServerInfoRequest())
        assert not reply.done()
        # A terminal's Ctrl-C goes to every process of the group.
        for process in [*worker_processes(server.process.pid), psutil.Process(server.process.pid)]:
            process.send_signal(signal.SIGINT)
        assert np.frombuffer(reply.result().results[0].tensor.data, np.float32)[0] == 2.0
    assert server.process.wait(PATIENCE_SECONDS) == 0
    assert "a second signal came" not in server.log()


def test_workers_stop_when_their_supervisor_is_killed(start_server: StartServer) -> None:
    server = start_server("--workers", "2")
    workers = worker_processes(server.process.pid)
    server.kill()
    gone, alive = psutil.wait_procs(workers, PATIENCE_SECONDS)
    assert len(gone) == 2
    assert not alive


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--address", "unix:/nowhere/pool.sock"], "TCP port"),
        (["--device", "cuda"], "one process drives a GPU"),
        (["--address", "203.0.113.1:1"], "cannot listen"),
    ],
)
def test_workers_with_what_they_cannot_share_are_refused(
    server_command: list[str], flags: list[str], words: str
) -> None:
    ended = subprocess.run(
        [*server_command, "--workers", "2", *flags], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_this_grpcio_offers_what_several_accepts_need() -> None:
    assert multi_accept.supported()


def answer_of_the_next(stub: PoolServiceStub) -> float:
    """An answer from the process that takes the ended one's place: calls that the end met are lost with it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return answer(stub)
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
                raise
            assert time.monotonic() < deadline


def test_the_plain_server_serves_again_after_a_path_that_ends_it(
    start_server: StartServer, send_path: Callable[[str, bytes], bytes]
) -> None:
    server = start_server("--plain-server")
    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        assert answer(stub) == 2.0
        (first,) = worker_processes(server.process.pid)
        send_path(server.address, b"/\xff")
        # A grpcio that no longer falls over the path is welcome; one that does ends its process.
        gone, _ = psutil.wait_procs([first], 5)
        assert answer_of_the_next(stub) == 2.0
    text = server.log()
    assert bool(gone) == ("a worker ended" in text)
    assert bool(gone) == ("UnicodeDecodeError" in text)


def test_a_grpcio_that_lacks_what_several_accepts_need_serves_all_the_same(start_server: StartServer) -> None:
    code = (
        "import sys; from poolservice_server import accepts; multi_accept.supported = lambda: False;"
        "from poolservice_server.__main__ import main; sys.exit(main())"
    )
    server = start_server(command=[sys.executable, "-c", code])
    with grpc.insecure_channel(server.address) as channel:
        assert answer(PoolServiceStub(channel)) == 2.0
    assert "serving with one a method" in server.log()
    assert len(worker_processes(server.process.pid)) == 1


def test_the_plain_server_serves_on_a_unix_socket(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--plain-server", "--address", f"unix:{tmp_path}/pool.sock")
    with grpc.insecure_channel(server.address) as channel:
        assert answer(PoolServiceStub(channel)) == 2.0
