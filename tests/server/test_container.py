"""The container image and the compose file. `make image-test` builds the image and runs the tests marked `image`."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from poolservice_client import GlobalAvgPool2d, MaxPool2d, PoolClient

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
ENGINE = os.environ.get("POOLSERVICE_TEST_ENGINE", "")
COMPOSE = {"docker": ["docker", "compose"], "podman": ["podman-compose"]}

needs_engine = pytest.mark.skipif(not ENGINE, reason="needs a container engine and a built image: make image-test")


def test_the_compose_file_follows_the_compose_specification() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE)]
    ended = subprocess.run(checker, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_compose_file_publishes_the_server_on_this_machine_only() -> None:
    ports = re.findall(r'^ {6}- "(.*):50051"$', COMPOSE_FILE.read_text(), re.MULTILINE)
    assert ports == ["127.0.0.1:${POOLSERVICE_PORT:-50051}"]
    # Within its container, the server listens on all interfaces, which it refuses by default.
    assert 'POOLSERVICE_INSECURE: "true"' in COMPOSE_FILE.read_text()


@dataclass
class Deployment:
    """A deployment by `docker compose up`: one container, published on a port of this machine."""

    address: str
    project: list[str]
    environment: dict[str, str]
    container: str = ""

    def compose(self, *arguments: str) -> str:
        """Run a compose command and return its output."""
        return output(*self.project, *arguments, environment=self.environment)

    def run_inside(self, *command: str) -> str:
        """Run a command in the container and return its output."""
        return output(ENGINE, "exec", self.container, *command)

    def inspect(self, template: str) -> str:
        """Return properties of the container."""
        return output(ENGINE, "inspect", "--format", template, self.container)


def output(*command: str, environment: dict[str, str] | None = None) -> str:
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.stdout}{ended.stderr}"
    return ended.stdout.strip()


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project = [*COMPOSE[ENGINE], "--file", str(COMPOSE_FILE), "--project-name", f"poolservice-test-{os.getpid()}"]
    deployment = Deployment(f"127.0.0.1:{port}", project, {**os.environ, "POOLSERVICE_PORT": str(port)})
    try:
        deployment.compose("up", "--detach", "--no-build")
        deployment.container = deployment.compose("ps", "--quiet")
        with grpc.insecure_channel(deployment.address) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield deployment
    finally:
        deployment.compose("down", "--timeout", "1")


@pytest.mark.image
@needs_engine
def test_the_published_port_serves(deployment: Deployment, photograph: Path) -> None:
    x = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)
    with PoolClient(deployment.address) as client:
        np.testing.assert_array_equal(client.pool(x, MaxPool2d(2)), x[:, 1::2, 1::2])
        assert client.pool(photograph, GlobalAvgPool2d()).shape == (3, 1, 1)


@pytest.mark.image
@needs_engine
def test_the_health_check_passes(deployment: Deployment) -> None:
    assert "poolservice" in deployment.inspect("{{.Config.Healthcheck.Test}}")
    deployment.run_inside("poolservice", "health", "--address", "127.0.0.1:50051")


@pytest.mark.image
@needs_engine
def test_the_server_runs_unprivileged_on_a_read_only_file_system(deployment: Deployment) -> None:
    status = dict(line.split(":", 1) for line in deployment.run_inside("cat", "/proc/1/status").splitlines())
    assert deployment.run_inside("id", "-u") == "10001"
    assert int(status["CapEff"], 16) == 0
    assert int(status["NoNewPrivs"]) == 1
    with pytest.raises(AssertionError, match="Read-only file system"):
        deployment.run_inside("touch", "/opt/poolservice/written")


@pytest.mark.image
@needs_engine
def test_the_resource_limits_apply(deployment: Deployment) -> None:
    limits = deployment.inspect("{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}")
    assert limits.split() == [str(4 * 2**30), str(2 * 10**9), "512"]


@pytest.mark.image
@needs_engine
def test_the_container_exits_with_status_0_when_it_is_stopped(deployment: Deployment) -> None:
    # An engine kills a container that is still running after its stop_grace_period, which gives another status.
    deployment.compose("stop")
    assert deployment.inspect("{{.State.Status}} {{.State.ExitCode}}") == "exited 0"
