"""The server as a process: starting, settings, health, hostile paths, stopping."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from poolservice import __version__
from poolservice.specs import OPERATORS
from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.settings import Settings

StartServer = Callable[..., Any]

GAP = pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())
SMALL = pb.PoolRequest(specs=[GAP], tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 1, 2], data=b"\x01\x03"))


def command(*flags: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "poolservice_server", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
        check=False,
    )


def answer(stub: PoolServiceStub) -> float:
    return float(np.frombuffer(stub.Pool(SMALL, wait_for_ready=True).results[0].tensor.data, np.float32)[0])


def test_help_explains_every_setting_with_its_default() -> None:
    help_text = " ".join(command("--help").stdout.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in help_text
        assert field.description is not None
        assert " ".join(field.description.split()) in help_text
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"(default: {field.default})" in help_text


def test_the_banner_names_version_device_and_address(start_server: StartServer) -> None:
    server = start_server()
    assert f"poolservice {__version__} on cpu" in server.banner
    host, port = server.address.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


@pytest.mark.parametrize(
    ("flags", "env", "words"),
    [
        (["--address", "nowhere"], {}, "address (--address, POOLSERVICE_ADDRESS): must be HOST:PORT"),
        (["--max-batch-size", "0"], {}, "max_batch_size"),
        ([], {"POOLSERVICE_THREADS": "many"}, "POOLSERVICE_THREADS"),
        (["--device", "cuda:7"], {}, "CUDA"),
        (["--require-gpu", "--device", "cpu"], {}, "--require-gpu"),
        (["--config", "missing.toml"], {}, "missing.toml"),
        (["--address", "203.0.113.1:50051"], {}, "Cannot assign requested address"),
        (["--bogus"], {}, "--bogus"),
    ],
)
def test_a_wrong_setting_is_one_sentence(flags: list[str], env: dict[str, str], words: str) -> None:
    ended = command(*flags, env=env)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_flags_win_over_the_environment_and_that_over_the_file(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_batch_size = 3\nmax_queue_items = 30\nmax_image_pixels = 300\n")
    server = start_server(
        "--config",
        str(file),
        "--max-batch-size",
        "5",
        env={"POOLSERVICE_MAX_BATCH_SIZE": "4", "POOLSERVICE_MAX_QUEUE_ITEMS": "40"},
    )
    with grpc.insecure_channel(server.address) as channel:
        limits = PoolServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest()).limits
    assert (limits.max_batch_size, limits.max_queue_items, limits.max_image_pixels) == (5, 40, 300)


def test_a_taken_port_is_one_sentence(start_server: StartServer) -> None:
    ended = command("--address", start_server().address)
    assert ended.returncode == 2
    assert "Address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_unix_socket_serves(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--address", f"unix:{tmp_path}/pool.sock")
    assert server.address == f"unix:{tmp_path}/pool.sock"
    with grpc.insecure_channel(server.address) as channel:
        assert answer(PoolServiceStub(channel)) == 2.0


def test_info_health_and_reflection(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        info = PoolServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest())
        assert info.version == __version__
        assert [operator.name for operator in info.operators] == list(OPERATORS)
        kernel, stride = info.operators[0].parameters[:2]
        assert (kernel.name, kernel.HasField("default_value")) == ("kernel_size", False)
        assert (stride.name, stride.default_value) == ("stride", "kernel_size")
        types = {parameter.name: parameter.type for operator in info.operators for parameter in operator.parameters}
        assert types["kernel_size"] == "int or one per dimension"
        assert (types["alpha"], types["ceil_mode"], types["divisor_override"]) == ("float", "bool", "int")
        assert all(list(operator.spatial_dims) == [1, 2, 3] for operator in info.operators)
        assert len(info.dtypes) == 9
        assert set(info.image_formats) == {"JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"}
        assert (info.devices[0].name, info.devices[0].state) == ("cpu", pb.DEVICE_STATE_SERVING)

        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "poolservice.v1.PoolService"):
            status = health.Check(health_pb2.HealthCheckRequest(service=name)).status
            assert status == health_pb2.HealthCheckResponse.SERVING

        reflect = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        reply = next(iter(reflect.ServerReflectionInfo(iter([request]))))
        assert "poolservice.v1.PoolService" in {service.name for service in reply.list_services_response.service}


@pytest.mark.parametrize(
    "path", [b"/poolservice.v1.PoolService/Nothing", b"/\xff", b"/poolservice.v1.PoolService/\xff\xfe", b"/x"]
)
def test_an_unknown_or_malformed_path_is_unimplemented_and_harms_nobody(
    server_address: str, send_path: Callable[[str, bytes], bytes], path: bytes
) -> None:
    with grpc.insecure_channel(server_address) as channel:
        stub = PoolServiceStub(channel)
        answer(stub)
        received = send_path(server_address, path)
        # 12 is UNIMPLEMENTED.
        assert b"grpc-status\x0212" in received
        assert answer(stub) == 2.0


def test_an_unknown_method_is_told_which_there_are(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        blend: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/poolservice.v1.PoolService/Blend")
        with pytest.raises(grpc.RpcError, match=r"/poolservice\.v1\.PoolService/Pool") as refused:
            blend(b"")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_before_the_process_ends(start_server: StartServer, signal_number: int) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    server = start_server("--max-batch-delay", "3", "--grace-period", "10", "--metrics-address", metrics)
    replies: list[float] = []
    with grpc.insecure_channel(server.address) as channel:
        waiting = threading.Thread(target=lambda: replies.append(answer(PoolServiceStub(channel))))
        waiting.start()
        # It waits for company; the signal comes while it does.
        while metric(metrics, "poolservice_queue_entries") != 1.0:
            assert waiting.is_alive()
        server.process.send_signal(signal_number)
        waiting.join()
    assert replies == [2.0]
    assert server.process.wait(10) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def metric(address: str, name: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def test_metrics_count_calls_by_method_and_status(start_server: StartServer) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    server = start_server("--metrics-address", metrics)
    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        assert [answer(stub) for _ in range(3)] == [2.0] * 3
        with pytest.raises(grpc.RpcError):
            stub.Pool(pb.PoolRequest())
    assert metric(metrics, 'poolservice_calls_total{code="OK",method="Pool"}') == 3.0
    assert metric(metrics, 'poolservice_calls_total{code="INVALID_ARGUMENT",method="Pool"}') == 1.0
    assert metric(metrics, 'poolservice_device_suspended{device="cpu"}') == 0.0


def test_an_idle_server_stops_at_once(start_server: StartServer) -> None:
    server = start_server("--grace-period", "30")
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 10
