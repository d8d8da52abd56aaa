"""The services of docker-compose.yml, run by the engine of `make image-test`."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
ENGINE = os.environ.get("POOLSERVICE_TEST_ENGINE", "")
#: The images of `make image` and `make image-client`.
IMAGE = os.environ.get("POOLSERVICE_IMAGE", "poolservice")
CLIENT_IMAGE = os.environ.get("POOLSERVICE_CLIENT_IMAGE", "poolservice-client")

_COMPOSE = {"docker": ["docker", "compose"], "podman": ["podman-compose"]}
_TIMEOUT_SECONDS = 120

needs_engine = pytest.mark.skipif(not ENGINE, reason="needs a container engine and the images: make image-test")


def output(*command: str, environment: dict[str, str] | None = None, text: str | None = None) -> str:
    """Run a command and return its output; fail if it fails."""
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, input=text, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
    )
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.stdout}{ended.stderr}"
    return ended.stdout.strip()


class Container:
    """A container, by its id."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run_inside(self, *command: str) -> str:
        """Run a command in the container and return its output."""
        return output(ENGINE, "exec", self.name, *command)

    def inspect(self, template: str) -> str:
        """Return properties of the container."""
        return output(ENGINE, "inspect", "--format", template, self.name)

    def wait_until_healthy(self) -> None:
        """Run the container's own health check until it passes. The test's own timeout ends the wait."""
        # podman schedules health checks with systemd only, which a machine may lack.
        while subprocess.run([ENGINE, "exec", self.name, *self._health_check()], capture_output=True).returncode:
            assert self.inspect("{{.State.Status}}") == "running", output(ENGINE, "logs", self.name)

    def _health_check(self) -> list[str]:
        kind, *command = self.inspect("{{range .Config.Healthcheck.Test}}{{println .}}{{end}}").split("\n")
        assert kind == "CMD"
        return command


class Project:
    """A project of the compose file with a name and ports of its own.

    Attributes:
        ports: the published port of each server.
        environment: the variables of the compose file.
    """

    def __init__(self, profile: str | None = None) -> None:
        self.name = f"poolservice-test-{os.getpid()}"
        self.ports = dict(zip(("server", "server-2"), free_ports(2), strict=True))
        self.environment = {
            **os.environ,
            "POOLSERVICE_IMAGE": IMAGE,
            "POOLSERVICE_CLIENT_IMAGE": CLIENT_IMAGE,
            "POOLSERVICE_PORT": str(self.ports["server"]),
            "POOLSERVICE_PORT_2": str(self.ports["server-2"]),
        }
        self._command = [*_COMPOSE[ENGINE], "--file", str(COMPOSE_FILE), "--project-name", self.name]
        if profile is not None:
            self._command += ["--profile", profile]

    def compose(self, *arguments: str) -> str:
        """Run a compose command and return its output."""
        return output(*self._command, *arguments, environment=self.environment)

    def address(self, service: str) -> str:
        """Return the published address of a server."""
        return f"127.0.0.1:{self.ports[service]}"

    def container(self, service: str) -> Container:
        """Return the container of a service."""
        labels = (f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}")
        filters = [argument for label in labels for argument in ("--filter", f"label={label}")]
        (found,) = output(ENGINE, "ps", "--all", "--quiet", *filters).split()
        return Container(found)

    def start(self, *services: str) -> None:
        """Start services, or replace those whose image has changed, and wait until they are healthy."""
        self.compose("up", "--detach", "--no-build", *(("--no-deps", *services) if services else ()))
        for service in services:
            self.container(service).wait_until_healthy()


@contextmanager
def project(profile: str | None = None) -> Iterator[Project]:
    """Return a project; remove what it has started at the end of the block."""
    started = Project(profile)
    try:
        yield started
    finally:
        started.compose("down", "--timeout", "1", "--volumes")


def free_ports(count: int) -> list[int]:
    """Return ports of this machine's loopback interface on which nothing listens."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
