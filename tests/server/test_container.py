"""The container image and the compose file. `make image-test` builds the image and runs what is marked so."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from poolservice_client import GlobalAvgPool2d, MaxPool2d, PoolClient

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
GRACE_SECONDS = 40.0
ENGINE = os.environ.get("POOLSERVICE_TEST_ENGINE", "")
COMPOSE = {"docker": ["docker", "compose"], "podman": ["podman-compose"]}

needs_engine = pytest.mark.skipif(not ENGINE, reason="needs a container engine and a built image: make image-test")


def test_the_compose_file_follows_the_compose_specification() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE)]
    checked = subprocess.run(checker, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@dataclass
class Deployment:
    """What `docker compose up` brought up: one container, published on a port of this machine."""

    address: str
    project: list[str]
    environment: dict[str, str]
    container: str = ""

    def compose(self, *arguments: str) -> str:
        return _output(*self.project, *arguments, environment=self.environment)

    def inside(self, *command: str) -> str:
        return _output(ENGINE, "exec", self.container, *command)

    def inspect(self, template: str) -> str:
        return _output(ENGINE, "inspect", "--format", template, self.container)


def _output(*command: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
def test_it_answers_through_the_published_port(deployment: Deployment, photograph: Path) -> None:
    x = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)
    with PoolClient(deployment.address) as client:
        np.testing.assert_array_equal(client.pool(x, MaxPool2d(2)), x[:, 1::2, 1::2])
        assert client.pool(photograph, GlobalAvgPool2d()).shape == (3, 1, 1)


@pytest.mark.image
@needs_engine
def test_its_health_check_passes(deployment: Deployment) -> None:
    assert "poolservice" in deployment.inspect("{{.Config.Healthcheck.Test}}")
    deployment.inside("poolservice", "health", "--address", "127.0.0.1:50051")


@pytest.mark.image
@needs_engine
def test_it_runs_as_nobody_in_particular_and_can_change_nothing(deployment: Deployment) -> None:
    status = dict(line.split(":", 1) for line in deployment.inside("cat", "/proc/1/status").splitlines())
    assert deployment.inside("id", "-u") == "10001"
    assert int(status["CapEff"], 16) == 0
    assert int(status["NoNewPrivs"]) == 1
    with pytest.raises(AssertionError, match="Read-only file system"):
        deployment.inside("touch", "/opt/poolservice/written")


@pytest.mark.image
@needs_engine
def test_its_limits_are_in_force(deployment: Deployment) -> None:
    limits = deployment.inspect("{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}")
    assert limits.split() == [str(4 * 2**30), str(2 * 10**9), "512"]


@pytest.mark.image
@needs_engine
def test_it_ends_by_itself_when_it_is_told_to(deployment: Deployment) -> None:
    started = time.monotonic()
    deployment.compose("stop")
    assert time.monotonic() - started < GRACE_SECONDS
    assert deployment.inspect("{{.State.Status}} {{.State.ExitCode}}") == "exited 0"
