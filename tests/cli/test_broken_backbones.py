"""`poolservice info` and `health` at a server that started without a broken backbone."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from tests.backbones.models import TinyBackbone, tiny_backbone

from poolservice_server.testing import Service

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def address(start_server: Callable[..., Service], mobilenetv2: TinyBackbone, tmp_path: Path) -> str:
    """The address of a server with the backbone mobilenetv2 that started without the backbone torn."""
    torn = tiny_backbone(tmp_path / "torn", name="torn")
    (torn.path / "model.onnx").unlink()
    folders = ("--backbone", str(mobilenetv2.path), "--backbone", str(torn.path))
    return start_server(*folders, "--skip-broken-backbones").address


@pytest.fixture
def serving_without_service() -> Iterator[str]:
    """The address of a server that has no other service than health."""
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_info_prints_the_reason_below_the_table(offline: Command, address: str) -> None:
    done = offline("info", address)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    header = next(line for line in lines if line.startswith("backbone "))
    row, *reasons = (line for line in lines if line.startswith("torn"))
    assert row.split() == ["torn", "BROKEN"]
    (reason,) = reasons
    assert reason.startswith("torn: ")
    assert "model.onnx" in reason
    assert lines.index(header) < lines.index(row) < lines.index(reason)
    assert header.index("input") - header.index("state") == len("SERVING  ")


def test_health_reports_backbones_that_do_not_serve(offline: Command, address: str) -> None:
    done = offline("health", address)
    assert (done.returncode, done.stdout) == (0, "SERVING\n")
    assert done.stderr.startswith("poolservice: the server started without the backbone torn: ")
    assert "model.onnx" in done.stderr
    as_json = offline("health", address, "--json")
    assert (as_json.returncode, as_json.stderr) == (0, "")
    (broken,) = json.loads(as_json.stdout)["broken_backbones"]
    assert broken["name"] == "torn"
    assert "model.onnx" in broken["reason"]


def test_health_needs_no_token(offline: Command, start_server: Callable[..., Service], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("right\n")
    address = start_server("--auth-token-file", str(tmp_path / "tokens")).address
    done = offline("health", address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "SERVING\n", "")
    as_json = offline("health", address, "--json")
    assert json.loads(as_json.stdout) == {"address": address, "status": "SERVING", "broken_backbones": None}


def test_health_of_a_server_without_the_service_is_reported(offline: Command, serving_without_service: str) -> None:
    done = offline("health", serving_without_service)
    assert (done.returncode, done.stdout) == (0, "SERVING\n")
    assert done.stderr.startswith("poolservice: the server's backbones are not known: ")
