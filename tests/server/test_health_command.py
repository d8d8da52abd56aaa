"""`poolservice-server health`: its output and exit statuses, and that it is fast because it imports little."""

import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from poolservice_server.testing import Service

RunServer = Callable[..., "subprocess.CompletedProcess[str]"]
StartServer = Callable[..., Service]


def failure(done: "subprocess.CompletedProcess[str]", status: int) -> str:
    """Return the one sentence with which the command fails; gRPC's own log does not precede it."""
    assert (done.returncode, done.stdout) == (status, "")
    (sentence,) = done.stderr.splitlines()
    return sentence.removeprefix("poolservice-server health: ")


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
    assert failure(
        done, 3
    ) == f"{address}: the server uses TLS; give its certificate, or that of its CA, with --ca " + ("(POOLSERVICE_CA)")


def test_a_connection_that_tls_refuses_is_explained(
    run_server: RunServer, start_server: StartServer, tls_flags: list[str], tmp_path: Path, server_address: str
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    certificate, key = tls_flags[1], tls_flags[3]
    address = start_server(*tls_flags, "--tls-client-ca", str(other)).address

    def reason(*flags: str, of: str = address) -> str:
        return failure(run_server("health", "--address", of, *flags), 3).removeprefix(f"{of}: ")

    assert reason("--ca", str(other)).startswith(f"the server's certificate is not one of --ca {other}: ")
    assert reason("--ca", certificate, "--server-name", "elsewhere") == (
        "the server's certificate is not for elsewhere; give a name that it has with --server-name"
    )
    assert reason("--ca", certificate) == (
        "the server ends the connection after the handshake, as one that requires a client certificate does; give it "
        "with --client-certificate and --client-key"
    )
    assert reason("--ca", certificate, "--client-certificate", certificate, "--client-key", key) == (
        f"the server refuses --client-certificate {certificate}"
    )
    assert reason("--ca", certificate, of=server_address) == ("the server uses no TLS; leave out --ca (POOLSERVICE_CA)")


def test_a_file_that_tls_cannot_use_is_named(run_server: RunServer, tls_flags: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    address = ("--address", "127.0.0.1:1")
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    done = run_server("health", *address, "--ca", str(broken))
    assert failure(done, 2) == f"--ca {broken} has no certificate in PEM, or a damaged one"
    done = run_server(
        "health", *address, "--ca", tls_flags[1], "--client-certificate", str(broken), "--client-key", tls_flags[3]
    )
    assert failure(done, 2).startswith(f"--client-certificate {broken} and --client-key {tls_flags[3]} cannot be used")


def test_a_server_that_is_stuck_does_not_respond(run_server: RunServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        done = run_server("health", "--address", address, "--timeout", "0.1")
    assert failure(done, 3) == f"{address}: no response within 0.1 seconds"


def test_an_empty_variable_is_as_good_as_none(run_server: RunServer) -> None:
    names = ("LISTEN", "CA", "CLIENT_CERTIFICATE", "CLIENT_KEY")
    done = run_server("health", "--no-such-flag", env={f"POOLSERVICE_{name}": "" for name in names})
    assert "unrecognized arguments" in failure(done, 2)


@pytest.mark.parametrize(
    ("flags", "status", "reason"),
    [
        (("--service", "backbone/none"), 1, ": there is no backbone none"),
        (("--service", "none"), 1, ': unknown service; ask for "" (the server itself), "poolservice.v1.PoolService", '),
        (("--service", "x" * 128), 2, "--service takes at most 127 bytes"),
        (("--ca", "/no/such/file"), 2, "/no/such/file: No such file or directory"),
        (("--no-such-flag",), 2, "unrecognized arguments: --no-such-flag (poolservice-server health --help lists"),
        (("extra",), 2, "unrecognized arguments: extra (poolservice-server health --help lists the flags)"),
        (("--address", ""), 2, "--address must be HOST:PORT, such as 127.0.0.1:50051, or unix:PATH; got ''"),
        (("--address", "localhost"), 2, "--address must be HOST:PORT"),
        (("--address", "localhost:0"), 2, "--address must be HOST:PORT"),
        (("--timeout", "0"), 2, "--timeout must be a number of seconds above 0; got 0"),
        (("--timeout", "-1"), 2, "--timeout must be a number of seconds above 0; got -1"),
        (("--timeout", "nan"), 2, "--timeout must be a number of seconds above 0; got nan"),
        (("--client-key", "key"), 2, "--client-certificate and --client-key need each other"),
        (("--client-certificate", "file"), 2, "--client-certificate and --client-key need each other"),
        (("--server-name", "host"), 2, "--server-name needs --ca"),
        (("--address", "127.0.0.1:1"), 3, "127.0.0.1:1: Connection refused"),
        (("--address", "unix:/no/such/socket"), 3, "unix:/no/such/socket: No such file or directory"),
    ],
)
def test_the_exit_status_tells_why_a_check_failed(
    run_server: RunServer, server_address: str, flags: tuple[str, ...], status: int, reason: str
) -> None:
    done = run_server("health", "--address", server_address, *flags)
    assert reason in failure(done, status)


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
