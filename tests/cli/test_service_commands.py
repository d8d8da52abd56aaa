"""`poolservice info`, `health`, `--version` and `--help`: their output and exit statuses."""

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from poolservice import __version__
from poolservice.dtypes import DTYPE_NAMES
from poolservice.specs import OPERATORS
from poolservice_server.testing import Service

Command = Callable[..., CompletedProcess[str]]

SERVING, NOT_SERVING, USAGE, UNREACHABLE = 0, 1, 2, 3


@pytest.fixture
def stopping_server() -> Iterator[str]:
    """The address of a server whose health is NOT_SERVING, as it is while a server stops."""
    server = grpc.server(ThreadPoolExecutor(1))
    health = HealthServicer()
    health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_info_shows_the_capabilities(command: Command, server_address: str) -> None:
    done = command("info")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"poolservice {__version__} at {server_address}, on torch ")
    for word in (*OPERATORS, *DTYPE_NAMES, "JPEG", "max_image_pixels", "50,000,000", "cpu"):
        assert word in done.stdout


@pytest.mark.parametrize("columns", ["40", "60", "80", None])
def test_info_never_cuts_a_number_or_a_name(command: Command, columns: str | None) -> None:
    done = command("info", COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout
    if columns:
        assert max(map(len, done.stdout.splitlines())) <= int(columns)
    words = re.split(r"[\s,]+", done.stdout)
    for word in (*OPERATORS, *DTYPE_NAMES, "count_include_pad=True", "max_image_pixels"):
        assert word in words
    for number in ("50,000,000", "67,108,864", "1,024"):
        assert number in done.stdout.split()


def test_info_names_limits_that_the_server_does_not_have(
    offline: Command, start_server: Callable[..., Service]
) -> None:
    address = start_server("--caller-max-rate", "2.5").address
    done = offline("info", address)
    assert done.returncode == 0, done.stderr
    limits = dict(re.findall(r"^(\w+)  +(\S.*\S|\S)$", done.stdout, re.MULTILINE))
    assert limits["caller_max_rate"] == "2.5"
    assert limits["caller_max_seconds"] == "no limit"
    assert limits["max_request_seconds"] == "10"
    assert not [name for name, value in limits.items() if value in ("0", "0.0")]
    assert json.loads(offline("info", address, "--json").stdout)["limits"]["caller_max_seconds"] == 0


def test_info_as_json(command: Command) -> None:
    info = json.loads(command("info", "--json").stdout)
    assert info["version"] == __version__
    assert {operator["name"] for operator in info["operators"]} == set(OPERATORS)
    kernel_size = next(one for one in info["operators"] if one["name"] == "max_pool")["parameters"][0]
    assert (kernel_size["name"], kernel_size["default"]) == ("kernel_size", None)
    assert info["limits"]["max_message_bytes"] == 64 * 2**20
    assert info["devices"][0]["state"] == "SERVING"


def test_health_of_a_serving_server(command: Command, server_address: str) -> None:
    done = command("health")
    assert (done.returncode, done.stdout, done.stderr) == (SERVING, "SERVING\n", "")
    assert json.loads(command("health", "--json").stdout) == {
        "address": server_address, "status": "SERVING", "broken_backbones": []
    }  # fmt: skip


def test_health_of_a_stopping_server(offline: Command, stopping_server: str) -> None:
    done = offline("health", "--address", stopping_server)
    assert (done.returncode, done.stdout, done.stderr) == (NOT_SERVING, "NOT_SERVING\n", "")


def test_health_without_a_server(offline: Command, unused_address: str) -> None:
    done = offline("health", "-a", unused_address)
    assert (done.returncode, done.stdout) == (UNREACHABLE, "")
    assert done.stderr.startswith(f"poolservice: no server answers at {unused_address}")
    as_json = offline("health", "-a", unused_address, "--json")
    assert as_json.returncode == UNREACHABLE
    assert json.loads(as_json.stdout) == {"address": unused_address, "status": "UNREACHABLE"}


def test_info_without_a_server(offline: Command, unused_address: str) -> None:
    done = offline("info", "-a", unused_address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"poolservice: no server answers at {unused_address}")


def test_a_wrong_unix_socket_is_named(offline: Command, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for name in ("info", "health", "bench"):
        done = offline(name, f"unix:{missing}")
        assert done.returncode == (UNREACHABLE if name == "health" else 1)
        assert f"the Unix socket {missing} does not exist" in done.stderr
    done = offline("health", "unix:" + "x" * 108)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert "the path of a Unix socket has 1 to 107 bytes; got 108 bytes" in done.stderr


def test_a_wrong_tls_file_is_named(offline: Command, unused_address: str, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("<html>Please log in</html>")
    done = offline("health", unused_address, POOLSERVICE_CA=str(ca))
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert f"POOLSERVICE_CA names {str(ca)!r}, which is not in PEM format" in done.stderr


def test_a_flag_overrides_the_environment(command: Command, unused_address: str) -> None:
    assert command("health", "--address", unused_address).returncode == UNREACHABLE


@pytest.mark.parametrize("name", ["info", "health", "bench"])
def test_an_address_is_an_argument_or_an_option(offline: Command, unused_address: str, name: str) -> None:
    status = UNREACHABLE if name == "health" else 1
    for arguments in ([unused_address], ["--address", unused_address], [unused_address, "-a", unused_address]):
        done = offline(name, *arguments, POOLSERVICE_ADDRESS="127.0.0.1:1")
        assert done.returncode == status
        assert done.stderr.startswith(f"poolservice: no server answers at {unused_address}")
    done = offline(name, unused_address, "--address", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert (
        done.stderr == f"poolservice: two addresses are given, {unused_address} and --address 127.0.0.1:1; give one\n"
    )


def test_an_unknown_flag_or_command_is_a_usage_error(offline: Command) -> None:
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


@pytest.mark.parametrize(
    "command", [[], ["pool"], ["map"], ["embed"], ["explain"], ["bench"], ["info"], ["health"]], ids=str
)
def test_help_cuts_nothing_in_a_narrow_terminal(offline: Command, command: list[str]) -> None:
    complete = offline(*command, "--help", COLUMNS="1000").stdout
    narrow = offline(*command, "--help", COLUMNS="40").stdout
    assert "--help" in narrow
    # A long word may be continued on the next line, so only the characters are compared.
    assert "".join(narrow.split()) == "".join(complete.split())


def test_operators_complete_in_the_shell(offline: Command) -> None:
    done = offline(
        _POOLSERVICE_COMPLETE="complete_bash",
        COMP_WORDS="poolservice pool x.jpg --op global_m",
        COMP_CWORD="4",
    )
    assert done.stdout.split() == [
        "global_max1d", "global_max2d", "global_max3d", "global_min1d", "global_min2d", "global_min3d",
    ]  # fmt: skip
