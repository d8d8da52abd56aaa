"""The server as a process: its ready line, health and reflection, malformed paths, metrics, and how it stops."""

import platform
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.scraping import scrape

from poolservice import __version__
from poolservice.specs import LAYERS, OPERATORS
from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.grpc_adapter import private_names
from poolservice_server.testing import Service

StartServer = Callable[..., Service]
PoolSmall = Callable[[PoolServiceStub], float]
CallPath = Callable[[str, bytes], grpc.StatusCode | None]

needs_multi_accept = pytest.mark.skipif(
    bool(private_names.missing("multi_accept_server")),
    reason="the installed grpcio does not support the multi-accept server",
)


def test_the_ready_line_names_version_device_and_address(start_server: StartServer) -> None:
    server = start_server()
    assert f"poolservice {__version__} on cpu" in server.ready_line
    host, port = server.address.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_a_server_runs_with_one_arena_of_the_allocator(start_server: StartServer) -> None:
    environment = psutil.Process(start_server("--workers", "2").process.pid).children()[0].environ()
    assert "glibc.malloc.arena_max=1" in environment["GLIBC_TUNABLES"]


def test_a_server_listens_on_a_unix_socket(start_server: StartServer, pool_small: PoolSmall, tmp_path: Path) -> None:
    server = start_server("--address", f"unix:{tmp_path}/pool.sock")
    assert server.address == f"unix:{tmp_path}/pool.sock"
    with grpc.insecure_channel(server.address) as channel:
        assert pool_small(PoolServiceStub(channel)) == 2.0


def test_server_info_describes_operators_and_devices(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        info = PoolServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest())
    assert info.version == __version__
    assert [operator.name for operator in info.operators] == list(OPERATORS)
    kernel, stride = info.operators[0].parameters[:2]
    assert (kernel.name, kernel.HasField("default_value")) == ("kernel_size", False)
    assert (stride.name, stride.default_value) == ("stride", "kernel_size")
    classic = info.operators[:10]
    types = {parameter.name: parameter.type for operator in classic for parameter in operator.parameters}
    assert types["kernel_size"] == "int or one per dimension"
    assert (types["alpha"], types["ceil_mode"], types["divisor_override"]) == ("float", "bool", "int")
    for operator in info.operators:
        assert list(operator.spatial_dims) == sorted(dims for name, dims in LAYERS if name == operator.name)
    assert len(info.dtypes) == 10
    assert set(info.image_formats) == {"JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"}
    assert (info.devices[0].name, info.devices[0].state) == ("cpu", pb.DEVICE_STATE_SERVING)


@pytest.mark.parametrize("service", ["", "poolservice.v1.PoolService"])
def test_the_health_check_reports_serving(server_address: str, service: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_service(server_address: str) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(server_address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        response = next(iter(stub.ServerReflectionInfo(iter([request]))))
    assert "poolservice.v1.PoolService" in {service.name for service in response.list_services_response.service}


@pytest.mark.parametrize("path", [b"/poolservice.v1.PoolService/Nothing", b"/x"])
def test_an_unknown_path_is_unimplemented(server_address: str, call_path: CallPath, path: bytes) -> None:
    assert call_path(server_address, path) is grpc.StatusCode.UNIMPLEMENTED


@needs_multi_accept
@pytest.mark.parametrize("path", [b"/\xff", b"/poolservice.v1.PoolService/\xff\xfe"])
def test_a_malformed_path_is_unimplemented_and_does_not_affect_other_calls(
    server_address: str, pool_small: PoolSmall, call_path: CallPath, path: bytes
) -> None:
    with grpc.insecure_channel(server_address) as channel:
        stub = PoolServiceStub(channel)
        pool_small(stub)
        assert call_path(server_address, path) is grpc.StatusCode.UNIMPLEMENTED
        assert pool_small(stub) == 2.0


@needs_multi_accept
def test_the_error_of_an_unknown_method_lists_the_methods(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        blend: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/poolservice.v1.PoolService/Blend")
        with pytest.raises(grpc.RpcError, match=r"/poolservice\.v1\.PoolService/Pool") as refused:
            blend(b"")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_accepted_requests_finish_before_the_process_ends(
    start_server: StartServer, pool_small: PoolSmall, signal_number: int
) -> None:
    server = start_server("--max-batch-delay", "10", "--grace-period", "60", "--metrics-address", "127.0.0.1:0")
    results: list[float] = []
    with grpc.insecure_channel(server.address) as channel:
        caller = threading.Thread(target=lambda: results.append(pool_small(PoolServiceStub(channel))))
        caller.start()
        # The signal arrives while the request waits for batch-mates.
        while scrape(server).value("poolservice_queue_entries") != 1.0:
            assert caller.is_alive()
        server.process.send_signal(signal_number)
        caller.join()
    assert results == [2.0]
    assert server.process.wait(60) == 0


def test_metrics_count_calls_by_method_and_status(start_server: StartServer, pool_small: PoolSmall) -> None:
    server = start_server("--metrics-address", "127.0.0.1:0")
    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        assert [pool_small(stub) for _ in range(3)] == [2.0] * 3
        with pytest.raises(grpc.RpcError):
            stub.Pool(pb.PoolRequest())
    metrics = scrape(server)
    assert metrics.value("poolservice_calls_total", method="Pool", code="OK") == 3
    assert metrics.value("poolservice_calls_total", method="Pool", code="INVALID_ARGUMENT") == 1
    assert metrics.value("poolservice_device_suspended", device="cpu") == 0


def test_an_idle_server_stops_without_waiting_for_the_grace_period(start_server: StartServer) -> None:
    # `stop` fails long before this grace period ends.
    assert start_server("--grace-period", "3600").stop() == 0
