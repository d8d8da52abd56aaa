"""The environment variable that selects parts of gRPC's core."""

import os
import subprocess
import sys

import pytest

from poolservice_server.grpc_adapter import experiments


def test_the_core_of_the_installed_grpcio_knows_the_experiment() -> None:
    # The core would complain on standard error.
    program = (
        "from poolservice_server.grpc_adapter import experiments;"
        "print(experiments.disable_event_engine_listener()); import grpc.aio"
    )
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True, timeout=60
    )
    assert (ended.stdout, ended.stderr) == ("True\n", "")


def test_experiments_in_the_environment_are_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_EXPERIMENTS", "tcp_rcv_lowat")
    assert experiments.disable_event_engine_listener()
    assert os.environ["GRPC_EXPERIMENTS"] == "tcp_rcv_lowat"


@pytest.mark.parametrize("version", ["1.70.0", "1.86.0", "2.0.0"])
def test_an_unknown_grpcio_keeps_its_default(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    monkeypatch.setattr(experiments, "version", lambda _name: version)
    assert not experiments.disable_event_engine_listener()
    assert "GRPC_EXPERIMENTS" not in os.environ


def test_a_server_with_an_unknown_grpcio_logs_a_warning() -> None:
    program = (
        "import sys; from poolservice_server.grpc_adapter import experiments;"
        "experiments.version = lambda _name: '1.86.0';"
        "from poolservice_server.__main__ import main; sys.exit(main())"
    )
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    ended = subprocess.run(
        # No machine has this address, so the server ends after the warning.
        [sys.executable, "-c", program, "--address", "203.0.113.1:50051"],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    warning, error = ended.stderr.splitlines()
    assert "unknown release of grpcio" in warning
    assert "cannot listen on 203.0.113.1:50051" in error
    assert ended.returncode == 2
