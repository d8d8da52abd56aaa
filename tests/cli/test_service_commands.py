"""`poolservice info`, `health`, `--version`: for people, and for scripts."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from subprocess import CompletedProcess

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from poolservice import __version__
from poolservice.dtypes import DTYPE_NAMES
from poolservice.specs import OPERATORS

Command = Callable[..., CompletedProcess[str]]

SERVING, NOT_SERVING, USAGE, UNREACHABLE = 0, 1, 2, 3


@pytest.fixture
def stopping() -> Iterator[str]:
    """The address of a server that says, as one does that is stopping, that it does not serve."""
    server = grpc.server(ThreadPoolExecutor(1))
    health = HealthServicer()
    health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_info_shows_what_the_service_can_do(command: Command, server_address: str) -> None:
    done = command("info")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"poolservice {__version__} at {server_address}, on torch ")
    for word in (*OPERATORS, *DTYPE_NAMES, "JPEG", "max_image_pixels", "50,000,000", "cpu"):
        assert word in done.stdout


def test_info_as_json(command: Command) -> None:
    said = json.loads(command("info", "--json").stdout)
    assert said["version"] == __version__
    assert {operator["name"] for operator in said["operators"]} == set(OPERATORS)
    kernel_size = next(one for one in said["operators"] if one["name"] == "max_pool")["parameters"][0]
    assert (kernel_size["name"], kernel_size["default"]) == ("kernel_size", None)
    assert said["limits"]["max_message_bytes"] == 64 * 2**20
    assert said["devices"][0]["state"] == "SERVING"


def test_health_of_a_service_that_serves(command: Command, server_address: str) -> None:
    done = command("health")
    assert (done.returncode, done.stdout, done.stderr) == (SERVING, "SERVING\n", "")
    assert json.loads(command("health", "--json").stdout) == {"address": server_address, "status": "SERVING"}


def test_health_of_a_service_that_does_not_serve(offline: Command, stopping: str) -> None:
    done = offline("health", "--address", stopping)
    assert (done.returncode, done.stdout, done.stderr) == (NOT_SERVING, "NOT_SERVING\n", "")


def test_health_where_nobody_answers(offline: Command, nobody: str) -> None:
    done = offline("health", "-a", nobody)
    assert (done.returncode, done.stdout) == (UNREACHABLE, "")
    assert done.stderr.startswith(f"poolservice: no server answers at {nobody}")
    said = offline("health", "-a", nobody, "--json")
    assert said.returncode == UNREACHABLE
    assert json.loads(said.stdout) == {"address": nobody, "status": "UNREACHABLE"}


def test_info_where_nobody_answers(offline: Command, nobody: str) -> None:
    done = offline("info", "-a", nobody)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"poolservice: no server answers at {nobody}")


def test_a_flag_wins_over_the_environment(command: Command, nobody: str) -> None:
    assert command("health", "--address", nobody).returncode == UNREACHABLE


def test_usage(offline: Command) -> None:
    assert offline("health", "--no-such-flag").returncode == USAGE
    assert offline("no-such-command").returncode == USAGE


def test_version(offline: Command) -> None:
    done = offline("--version")
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


def test_help_names_every_command_and_every_operator(offline: Command) -> None:
    commands = offline("--help").stdout
    for name in ("pool", "info", "health", "--version", "--install-completion", "Exit statuses", "POOLSERVICE_TOKEN"):
        assert name in commands
    pool = offline("pool", "--help").stdout
    for name in ("max, ", "adaptive_avg", "global_min", "gap", "--kernel-size", "POOLSERVICE_ADDRESS"):
        assert name in pool


def test_operators_complete_in_the_shell(offline: Command) -> None:
    done = offline(
        _POOLSERVICE_COMPLETE="complete_bash",
        COMP_WORDS="poolservice pool x.jpg --op global_m",
        COMP_CWORD="4",
    )
    assert done.stdout.split() == [
        "global_max1d", "global_max2d", "global_max3d", "global_min1d", "global_min2d", "global_min3d",
    ]  # fmt: skip
