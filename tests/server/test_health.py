"""The health service of a real server: liveness, readiness, Watch and List."""

import asyncio
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from tests.server.test_stopping import COMMAND as BLOCKING_COMMAND
from tests.server.test_stopping import call_until_the_end

from http2_connection import DATA, END_STREAM, connect, frame, grpc_message
from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.grpc_adapter import private_names
from poolservice_server.testing import Service

StartServer = Callable[..., Service]

TIMEOUT_SECONDS = 60
NAMES = ("", "poolservice.v1.PoolService", "liveness")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
FAILING_COMMAND = (sys.executable, str(Path(__file__).with_name("server_with_failing_device.py")))
#: The number of health checks that one connection may have in progress.
CALLS_PER_CONNECTION = 64

BOTH_SERVERS = pytest.mark.parametrize(
    "server_flags",
    [
        pytest.param(
            (),
            marks=pytest.mark.skipif(
                bool(private_names.missing("multi_accept_server")),
                reason="the installed grpcio does not support the multi-accept server",
            ),
            id="multi-accept",
        ),
        pytest.param(("--plain-server",), id="plain"),
    ],
)


@contextmanager
def health_of(server: Service | str) -> Iterator[health_pb2_grpc.HealthStub]:
    """Connect to a server or an address."""
    with grpc.insecure_channel(server if isinstance(server, str) else server.address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def check(health: health_pb2_grpc.HealthStub, name: str, **options: Any) -> Any:
    """Return the status of a name, or the code of the error."""
    try:
        return health.Check(
            health_pb2.HealthCheckRequest(service=name), wait_for_ready=True, timeout=TIMEOUT_SECONDS, **options
        ).status
    except grpc.RpcError as error:
        return error.code()


def watch(health: health_pb2_grpc.HealthStub, name: str = "", first: int = SERVING) -> Any:
    """Start a call of Watch, and return it after its first response."""
    call = health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_SECONDS)
    assert next(call).status == first
    return call


def first_status(health: health_pb2_grpc.HealthStub, name: str = "") -> Any:
    """Start a call of Watch; return the status in its first response, or the code of the error."""
    try:
        return next(health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_SECONDS)).status
    except grpc.RpcError as error:
        return error.code()


@pytest.fixture
def png() -> bytes:
    """An image."""
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(file, "PNG")
    return file.getvalue()


@BOTH_SERVERS
def test_check_reports_liveness_and_readiness(start_server: StartServer, server_flags: tuple[str, ...]) -> None:
    with health_of(start_server(*server_flags)) as health:
        assert [check(health, name) for name in NAMES] == [SERVING] * 3
        assert check(health, "no.such.Service") is grpc.StatusCode.NOT_FOUND


@BOTH_SERVERS
def test_watch_reports_each_change_once(
    start_server: StartServer, server_flags: tuple[str, ...], tmp_path: Path
) -> None:
    server = start_server(*server_flags, command=FAILING_COMMAND, env={"FAULT_FOLDER": str(tmp_path)})
    with health_of(server) as health:
        ready, alive, unknown = (
            watch(health),
            watch(health, "liveness"),
            health.Watch(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=TIMEOUT_SECONDS),
        )
        assert next(unknown).status == UNKNOWN
        (tmp_path / "fails").touch()
        assert next(ready).status == NOT_SERVING
        assert [check(health, name) for name in NAMES] == [NOT_SERVING, NOT_SERVING, SERVING]
        (tmp_path / "fails").unlink()
        assert next(ready).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(ready).status == NOT_SERVING
        for call in (ready, alive, unknown):
            with pytest.raises(grpc.RpcError) as ended:
                next(call)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_device_that_hangs_makes_the_server_unready_until_it_returns(
    start_server: StartServer, tmp_path: Path
) -> None:
    environment = {"FAULT_FOLDER": str(tmp_path), "STUCK_TICKS": "100"}
    server = start_server(command=FAILING_COMMAND, env=environment)
    with health_of(server) as health:
        ready = watch(health)
        os.mkfifo(tmp_path / "hangs")
        assert next(ready).status == NOT_SERVING
        assert check(health, "liveness") == SERVING
        # The server reads the pipe, so a writer need not wait. Removed first, so that the server reads it only once.
        writer = os.open(tmp_path / "hangs", os.O_WRONLY)
        (tmp_path / "hangs").unlink()
        os.close(writer)
        assert next(ready).status == SERVING


def test_calls_are_answered_while_the_server_is_unready(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(command=FAILING_COMMAND, env={"FAULT_FOLDER": str(tmp_path)})
    request = pb.PoolRequest(
        specs=[pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())],
        tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 1, 2], data=b"\x01\x03"),
    )
    with health_of(server) as health, grpc.insecure_channel(server.address) as channel:
        ready = watch(health)
        (tmp_path / "fails").touch()
        assert next(ready).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as refused:
            PoolServiceStub(channel).Pool(request, timeout=TIMEOUT_SECONDS)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        (tmp_path / "fails").unlink()
        assert next(ready).status == SERVING
        response = PoolServiceStub(channel).Pool(request, timeout=TIMEOUT_SECONDS)
        assert np.frombuffer(response.results[0].tensor.data, np.float32) == 2


def test_a_full_queue_is_neither_dead_nor_unready(start_server: StartServer, png: bytes) -> None:
    # Decoding never ends, and takes the only place in the queue.
    server = start_server(
        "--max-queue-items", "1", "--grace-period", "3600", command=BLOCKING_COMMAND, env={"FAULT": "thread"}
    )
    caller = call_until_the_end(server, png, "thread")
    with health_of(server) as health, grpc.insecure_channel(server.address) as channel:
        request = pb.PoolRequest(
            specs=[pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())], image=pb.Image(data=png)
        )
        with pytest.raises(grpc.RpcError) as refused:
            PoolServiceStub(channel).Pool(request, timeout=TIMEOUT_SECONDS)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert [check(health, name) for name in NAMES] == [SERVING] * 3
        # While accepted requests are finished, the server is alive and not ready.
        ready = watch(health)
        server.process.send_signal(signal.SIGTERM)
        assert next(ready).status == NOT_SERVING
        assert [check(health, name) for name in NAMES] == [NOT_SERVING, NOT_SERVING, SERVING]
    server.kill()
    caller.join()


def test_a_server_whose_event_loop_is_stuck_does_not_pass_for_alive(start_server: StartServer, png: bytes) -> None:
    server = start_server("--grace-period", "0", command=BLOCKING_COMMAND, env={"FAULT": "loop"})
    with health_of(server) as health:
        assert check(health, "liveness") == SERVING
        caller = call_until_the_end(server, png, "loop")
        with pytest.raises(grpc.RpcError) as failed:
            health.Check(health_pb2.HealthCheckRequest(service="liveness"), timeout=0.2)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    server.kill()
    caller.join()


@BOTH_SERVERS
def test_the_watches_of_a_server_are_limited(start_server: StartServer, server_flags: tuple[str, ...]) -> None:
    with health_of(start_server(*server_flags, "--max-connections", "3")) as health:
        calls = [watch(health) for _ in range(3)]
        assert first_status(health) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert check(health, "") == SERVING
        calls[0].cancel()
        while (status := first_status(health)) is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # The server learns of the cancelled call soon.
            pass
        assert status == SERVING


def test_one_connection_cannot_have_all_health_checks(server_address: str) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server_address, options) as channel, health_of(server_address) as others:
        health = health_pb2_grpc.HealthStub(channel)
        calls = [watch(health) for _ in range(CALLS_PER_CONNECTION)]
        assert first_status(health) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert check(health, "") is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert check(others, "") == SERVING
        for call in calls:
            call.cancel()
        while check(health, "") is grpc.StatusCode.RESOURCE_EXHAUSTED:
            pass


@pytest.mark.parametrize("message", [b"", grpc_message(b"\xff")], ids=["none", "damaged"])
async def test_a_check_without_a_valid_message_is_refused(server_address: str, message: bytes) -> None:
    async with connect(server_address) as connection:
        number = connection.call("/grpc.health.v1.Health/Check")
        connection.send(frame(DATA, END_STREAM, number, message))
        await connection.streams[number].ended.wait()
        assert connection.streams[number].status == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.skipif(not hasattr(health_pb2, "HealthListRequest"), reason="an old release of grpcio-health-checking")
def test_list_names_everything_to_callers_with_a_token(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("right\n")
    server = start_server("--auth-token-file", str(tmp_path / "tokens"), "--workers", "2")
    with health_of(server) as health:
        request = health_pb2.HealthListRequest()
        statuses = health.List(request, timeout=TIMEOUT_SECONDS, metadata=[("authorization", "Bearer right")]).statuses
        assert {name: one.status for name, one in statuses.items()} == dict.fromkeys(NAMES, SERVING)
        with pytest.raises(grpc.RpcError) as refused:
            health.List(request, timeout=TIMEOUT_SECONDS)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert [check(health, name) for name in NAMES] == [SERVING] * 3


async def test_a_check_without_a_message_ends(server_address: str) -> None:
    async with connect(server_address) as connection:
        number = connection.call("/grpc.health.v1.Health/Check")
        await connection.streams[number].ended.wait()
        assert connection.streams[number].status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


async def test_a_watcher_that_does_not_read_delays_neither_others_nor_the_stop(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(command=FAILING_COMMAND, env={"FAULT_FOLDER": str(tmp_path)})
    async with connect(server.address, window=0) as connection, grpc.aio.insecure_channel(server.address) as channel:
        number = connection.call("/grpc.health.v1.Health/Watch")
        connection.send(frame(DATA, END_STREAM, number, grpc_message(b"")))
        await connection.flush()
        ready = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
        assert (await ready.read()).status == SERVING
        for _ in range(3):
            (tmp_path / "fails").touch()
            assert (await ready.read()).status == NOT_SERVING
            (tmp_path / "fails").unlink()
            assert (await ready.read()).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert (await ready.read()).status == NOT_SERVING
        assert connection.streams[number].nbytes == 0
        assert await asyncio.to_thread(server.process.wait, TIMEOUT_SECONDS) == 0
