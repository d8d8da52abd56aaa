"""The log: every line is JSON if it should be, whoever writes it; calls and batches at level debug; escaped text."""

import io
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import grpc
import psutil
import pytest
from PIL import Image
from tests.server.server_log import wait_for_log

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.testing import Service

StartServer = Callable[..., Service]
PoolSmall = Callable[[PoolServiceStub], float]

TIMEOUT_SECONDS = 60


def events(service: Service) -> list[dict[str, Any]]:
    """Return the log's events; fails if a line is not JSON."""
    return [json.loads(line) for line in service.log().splitlines()]


def test_the_ready_line_of_a_json_log_is_json(start_server: StartServer, pool_small: PoolSmall) -> None:
    server = start_server("--log-format", "json", "--workers", "2")
    ready = json.loads(server.ready_line)
    assert (ready["event"], ready["workers"], ready["address"]) == ("serving", 2, server.address)
    with grpc.insecure_channel(ready["address"]) as channel:
        assert pool_small(PoolServiceStub(channel)) == 2.0
    assert server.stop() == 0
    assert "stopped" in [event["event"] for event in events(server)]


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
def test_lines_of_c_code_are_json(start_server: StartServer, tls_flags: list[str], flags: tuple[str, ...]) -> None:
    server = start_server("--log-format", "json", *tls_flags, *flags)
    host, port = server.address.split(":")
    # gRPC's core writes a line about each failed handshake.
    with socket.create_connection((host, int(port)), TIMEOUT_SECONDS) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        while connection.recv(4096):
            pass
    wait_for_log(server, "andshake")
    (handshake,) = [event for event in events(server) if "andshake" in event["event"]]
    assert handshake["logger"] == "poolservice_server.stderr"
    assert handshake["level"] in ("error", "warning", "info")


@pytest.mark.parametrize("flags", [(), ("--workers", "2"), ("--plain-server",)])
def test_a_stop_logs_nothing_but_the_stop(
    start_server: StartServer, pool_small: PoolSmall, flags: tuple[str, ...]
) -> None:
    server = start_server("--log-format", "json", *flags)
    before = len(events(server))
    with grpc.insecure_channel(server.address) as channel:
        assert pool_small(PoolServiceStub(channel)) == 2.0
        assert server.stop() == 0
    found = events(server)[before:]
    assert {event["event"] for event in found} <= {"stopping the workers", "stopping", "stopped"}
    assert {event["level"] for event in found} == {"info"}


@pytest.mark.parametrize("output", ["text", "json"])
def test_every_line_about_a_worker_names_it(start_server: StartServer, pool_small: PoolSmall, output: str) -> None:
    server = start_server("--workers", "2", "--log-level", "debug", "--log-format", output)
    # With an old grpcio, the supervisor has logged warnings.
    started = len(server.log().splitlines())
    with grpc.insecure_channel(server.address) as channel:
        assert pool_small(PoolServiceStub(channel)) == 2.0
    workers = [
        child for child in psutil.Process(server.process.pid).children() if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[0].send_signal(signal.SIGSEGV)
    wait_for_log(server, "a worker has ended")
    assert server.stop() == 0
    lines = server.log().splitlines()[started:]
    assert any("Segmentation fault" in line for line in lines)
    assert any("batch" in line for line in lines)
    named = [json.loads(line).get("worker") if output == "json" else worker_of(line) for line in lines]
    unnamed = [line for line, number in zip(lines, named, strict=True) if number not in (0, 1)]
    assert len(unnamed) == 1
    assert "stopping the workers" in unnamed[0]


def worker_of(line: str) -> int | None:
    """Return the worker that a line of a text log names."""
    found = re.search(r" worker=(\d+)$", line)
    return int(found[1]) if found else None


def test_damaged_images_leave_the_log_json(start_server: StartServer) -> None:
    server = start_server("--log-format", "json")
    file = io.BytesIO()
    Image.new("L", (64, 64), 7).save(file, "TIFF", compression="tiff_lzw")
    specs = [pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())]
    whole = file.getvalue()
    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        for position in range(8, len(whole), 3):
            damaged = whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
            request = pb.PoolRequest(specs=specs, image=pb.Image(data=damaged))
            stub.Pool.future(request, timeout=TIMEOUT_SECONDS).exception()
    assert server.stop() == 0
    assert events(server)


def test_a_failed_start_is_json(run_server: Callable[..., "subprocess.CompletedProcess[str]"]) -> None:
    ended = run_server("--log-format", "json", "--device", "cuda:99")
    assert ended.returncode == 2
    # An old grpcio adds warnings.
    events_at_start = [json.loads(line) for line in ended.stderr.splitlines()]
    (failure,) = [event for event in events_at_start if event["level"] == "error"]
    assert failure["event"] == "cannot start"
    assert "--device" in failure["reason"]


def test_debug_logs_calls_refusals_and_batches_but_no_libraries(
    start_server: StartServer, pool_small: PoolSmall
) -> None:
    server = start_server("--log-format", "json", "--log-level", "debug")
    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        assert pool_small(stub) == 2.0
        assert stub.Pool.future(pb.PoolRequest(), timeout=TIMEOUT_SECONDS).exception() is not None
    assert server.stop() == 0
    found = events(server)
    calls = [event for event in found if event["event"] in ("call", "failed call")]
    assert [(call["method"], call["code"]) for call in calls] == [("Pool", "OK"), ("Pool", "INVALID_ARGUMENT")]
    assert [call["level"] for call in calls] == ["debug", "info"]
    assert "spec" in calls[1]["reason"]
    (batch,) = [event for event in found if event["event"] == "batch"]
    assert (batch["requests"], batch["failed"], batch["devices"]) == (1, 0, ["cpu"])
    assert {event["logger"].partition(".")[0] for event in found} == {"poolservice_server"}


@pytest.mark.parametrize("output", ["text", "json"])
def test_control_characters_are_escaped(output: str) -> None:
    program = f"""
import structlog
from poolservice_server import log
log.configure("info", {output!r})
logger = structlog.get_logger("poolservice_server.test")
logger.warning("first\\nsecond \\x1b[31m", value="\\r\\x07\\ud800")
try:
    raise ValueError("one\\n2026-01-01 [error] forged\\x1b")
except ValueError:
    logger.exception("failed")
log.flush()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=TIMEOUT_SECONDS)
    assert ended.returncode == 0
    lines = ended.stderr.decode("ascii").splitlines()
    assert not any("\x1b" in line or "\r" in line or "\x07" in line for line in lines)
    if output == "json":
        assert [json.loads(line)["event"] for line in lines] == ["first\nsecond \x1b[31m", "failed"]
    else:
        assert r"first\nsecond \x1b[31m" in lines[0]
        assert not any(line.startswith("2026-01-01 [error]") for line in lines)


def test_a_full_pipe_of_standard_error_blocks_nobody() -> None:
    # The writer holds the interpreter's lock, so the thread that reads the pipe cannot run.
    program = """
import ctypes
from poolservice_server import log
log.configure("info", "json")
libc = ctypes.PyDLL(None)
for _ in range(100):
    libc.write(2, b"x" * 9999 + b"\\n", 10000)
log.flush()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=TIMEOUT_SECONDS)
    assert ended.returncode == 0
    assert all(json.loads(line)["event"].strip("x") == "" for line in ended.stderr.splitlines())


def test_lines_that_grpc_repeats_are_counted_instead_of_logged() -> None:
    # Whoever connects can cause such lines, for example with handshakes that fail.
    program = """
import os
from poolservice_server import log
log.configure("info", "json")
for number in range(300):
    os.write(2, b"E1127 13:00:00.%06d 41 handshake.cc:95] failed for ipv4:192.0.2.1:%d\\n" % (number, number))
os.write(2, b"E1127 13:00:01.000000 41 other.cc:7] failed\\nplain\\nplain\\n")
log.flush()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert ended.stderr, ended
    found = [json.loads(line) for line in ended.stderr.splitlines()]
    lines = [event["event"] for event in found]
    counts = [int(line.split()[2]) for line in lines if line.startswith("handshake.cc:95 wrote")]
    logged = [event for event in found if "handshake.cc:95]" in event["event"]]
    assert logged[0]["level"] == "error"
    assert len(logged) + sum(counts) == 300
    assert len(logged) < 150
    assert [line for line in lines if "handshake" not in line][-3:] == [
        "E1127 13:00:01.000000 41 other.cc:7] failed",
        "plain",
        "plain",
    ]
