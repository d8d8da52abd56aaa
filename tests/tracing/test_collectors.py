"""Collectors: which variables configure them, what happens without one or with one that is down, and the last spans."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
from tests.tracing.conftest import Collector

from poolservice_client import MaxPool2d, PoolClient
from poolservice_server import tracing
from poolservice_server.settings import Settings, SettingsError
from poolservice_server.testing import Service
from poolservice_server.tracing.provider import create_provider

X = np.zeros((3, 8, 8), np.float32)
URL = "http://127.0.0.1:4317"
EXPORTER = "opentelemetry.exporter.otlp.proto.grpc"

StartServer = Callable[..., Service]


@pytest.fixture
def own_collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture
def dead_port() -> Iterator[str]:
    """Return the address of a port on which nothing listens, and which nothing else can take."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def pool(server: Service) -> None:
    with PoolClient(server.address) as client:
        assert client.pool(X, MaxPool2d(2)).shape == (3, 4, 4)


def test_standard_variables_configure_traces_and_a_stop_exports_the_last_spans(
    start_server: StartServer, own_collector: Collector
) -> None:
    server = start_server(
        env={
            "OTEL_EXPORTER_OTLP_ENDPOINT": own_collector.url,
            "OTEL_SERVICE_NAME": "pooling",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=tests",
            # Only the end of the process exports.
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
        }
    )
    pool(server)
    assert server.stop() == 0
    names = {one.name for one in own_collector.spans}
    assert {"poolservice.v1.PoolService/Pool", "queue", "compute", "encode"} <= names
    resource = own_collector.spans[0].resource
    assert resource["service.name"] == "pooling"
    assert resource["deployment.environment.name"] == "tests"


def test_the_sampler_of_the_environment_is_used(own_collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    assert create_provider(own_collector.url, 0).sampler.get_description().startswith("ParentBased{root:AlwaysOn")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    assert create_provider(own_collector.url, 0).sampler.get_description() == "TraceIdRatioBased{0.25}"


def test_a_collector_that_is_down_disturbs_neither_calls_nor_the_stop(
    start_server: StartServer, dead_port: str
) -> None:
    environment = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_BSP_SCHEDULE_DELAY": "10", "OTEL_BSP_MAX_QUEUE_SIZE": "600"}
    server = start_server("--otlp-endpoint", dead_port, env=environment)
    with PoolClient(server.address) as client:
        # More spans than the exporter's queue holds.
        for _ in range(200):
            assert client.pool(X, MaxPool2d(2)).shape == (3, 4, 4)
    assert server.stop() == 0
    lines = [line for line in server.log().splitlines() if "opentelemetry" in line]
    assert lines
    assert len(lines) < 10


def test_every_worker_exports_its_spans(start_server: StartServer, own_collector: Collector) -> None:
    server = start_server("--workers", "2", "--otlp-endpoint", own_collector.url, env={"OTEL_BSP_SCHEDULE_DELAY": "10"})
    seen: set[int] = set()
    # The kernel assigns each connection to one of the workers.
    while seen < {0, 1}:
        pool(server)
        with PoolClient(server.address) as client:
            client.server_info()
        seen = {one.resource["poolservice.worker"] for one in list(own_collector.spans)}
    assert server.stop() == 0


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": URL},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": URL},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": URL},
    ],
)
def test_nothing_is_traced_unless_a_collector_can_be_used(environment: Mapping[str, str]) -> None:
    assert tracing.start(Settings(), 0, environment) is None


# Other packages, such as Ray, install OpenTelemetry without the exporter.
@pytest.mark.parametrize("missing", ["opentelemetry.exporter.otlp.proto", EXPORTER])
def test_without_the_extra_the_flag_is_an_error_and_the_variable_a_warning(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delitem(sys.modules, EXPORTER)
    monkeypatch.setitem(sys.modules, missing, None)
    assert tracing.start(Settings(), 0, {"OTEL_EXPORTER_OTLP_ENDPOINT": URL}) is None
    with pytest.raises(SettingsError, match=r"needs the extra otel; .*pip install '\.\[server,otel\]'"):
        tracing.start(Settings(otlp_endpoint=URL), 0, {})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000000"),
    ],
)
def test_with_a_wrong_variable_the_flag_is_an_error_and_the_variable_a_warning(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert tracing.start(Settings(), 0, {"OTEL_EXPORTER_OTLP_ENDPOINT": URL}) is None
    with pytest.raises(SettingsError, match=r"--otlp-endpoint: OpenTelemetry does not accept the variables OTEL_\*"):
        tracing.start(Settings(otlp_endpoint=URL), 0, {})


def test_without_a_collector_opentelemetry_is_not_imported() -> None:
    program = """
import sys
import poolservice_client, poolservice_server.observers
from poolservice_server import tracing
from poolservice_server.settings import Settings
assert tracing.start(Settings(), 0, {}) is None
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("value", ["localhost:4317", "http://localhost", "ftp://localhost:21", "http://:4317"])
def test_a_wrong_endpoint_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must be http://HOST:PORT or https://HOST:PORT"):
        Settings(otlp_endpoint=value)
