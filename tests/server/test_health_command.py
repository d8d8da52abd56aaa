"""`poolservice-server health`: its output and exit statuses, and that it is fast because it imports little."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from poolservice_server.testing import Service

RunServer = Callable[..., "subprocess.CompletedProcess[str]"]
StartServer = Callable[..., Service]


@pytest.mark.parametrize("service", ["", "liveness", "poolservice.v1.PoolService"])
def test_a_ready_server_is_serving(run_server: RunServer, server_address: str, service: str) -> None:
    done = run_server("health", "--address", server_address, "--service", service)
    assert (done.returncode, done.stdout, done.stderr) == (0, "SERVING\n", "")


def test_a_server_that_is_not_ready_is_not_serving(run_server: RunServer) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    health = HealthServicer()
    health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    done = run_server("health", "--address", f"127.0.0.1:{port}")
    server.stop(None).wait()
    assert (done.returncode, done.stdout, done.stderr) == (1, "NOT_SERVING\n", "")


def test_the_address_is_that_of_the_server_in_the_same_container(run_server: RunServer, server_address: str) -> None:
    everywhere = server_address.replace("127.0.0.1", "0.0.0.0")
    for address in (server_address, everywhere):
        done = run_server("health", env={"POOLSERVICE_LISTEN": address})
        assert (done.returncode, done.stdout) == (0, "SERVING\n")


def test_a_server_with_tls_is_checked_by_its_own_certificate(
    run_server: RunServer, start_server: StartServer, tls_flags: list[str]
) -> None:
    address = start_server(*tls_flags).address
    done = run_server("health", "--address", address, "--ca", tls_flags[1], "--server-name", "localhost")
    assert (done.returncode, done.stdout, done.stderr) == (0, "SERVING\n", "")
    done = run_server("health", "--address", address, "--timeout", "10")
    assert (done.returncode, done.stdout) == (3, "")


@pytest.mark.parametrize(
    ("flags", "status", "reason"),
    [
        (("--service", "backbone/none"), 1, "NOT_FOUND: unknown service"),
        (("--service", "x" * 128), 2, "--service takes at most 127 bytes"),
        (("--ca", "/no/such/file"), 2, "/no/such/file: No such file or directory"),
        (("--no-such-flag",), 2, "unrecognized arguments"),
        (("--address", "127.0.0.1:1"), 3, "127.0.0.1:1: UNAVAILABLE"),
    ],
)
def test_the_exit_status_tells_why_a_check_failed(
    run_server: RunServer, server_address: str, flags: tuple[str, ...], status: int, reason: str
) -> None:
    done = run_server("health", "--address", server_address, *flags)
    assert (done.returncode, done.stdout) == (status, "")
    assert reason in done.stderr


def test_the_command_imports_only_what_it_needs(server_address: str) -> None:
    code = (
        "import sys; from poolservice_server.__main__ import main; status = main(); "
        "print(sorted({'numpy', 'torch', 'pydantic', 'google.protobuf', 'rich', 'typer'} & set(sys.modules)), status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "health", "--address", server_address],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["SERVING", "[] 0"]
