"""Two replicas are replaced one after the other while clients call them, and one is killed: no call is lost."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import pytest
from tests.server.compose_project import CLIENT_IMAGE, ENGINE, IMAGE, Project, needs_engine, output, project

pytestmark = [pytest.mark.image, needs_engine, pytest.mark.timeout(600)]

SERVERS = ("server", "server-2")
NEXT_IMAGE = f"{IMAGE}-upgrade-test"
LOAD = Path(__file__).with_name("container_load.py")


class Load:
    """A container of the client's image that calls the servers in every way, on the network of their project."""

    def __init__(self, name: str) -> None:
        self._command = [ENGINE, "run", "--rm", "--interactive", "--network", f"{name}_default"]
        self._command += ["--volume", f"{LOAD}:/load.py:ro", "--entrypoint", "python", CLIENT_IMAGE, "/load.py"]
        addresses = ",".join(f"{server}:50051" for server in SERVERS)
        self._process = subprocess.Popen(
            [*self._command, "dns:///pool:50051", addresses],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._input = cast(IO[str], self._process.stdin)
        self._output = cast(IO[str], self._process.stdout)

    def wait(self) -> None:
        """Wait until each kind of call has been right ten more times."""
        self._input.write("\n")
        self._input.flush()
        line = self._output.readline()
        assert line == "right\n", line

    def counts(self) -> dict[str, dict[str, int]]:
        """Stop the calls and return their numbers by outcome and kind."""
        self._input.close()
        counts: dict[str, dict[str, int]] = json.loads(self._output.read())
        assert self._process.wait() == 0
        return counts

    def close(self) -> None:
        """End the container, if it still runs."""
        for pipe in (self._input, self._output):
            pipe.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def next_image() -> str:
    """Return an image with another id, as a new version has."""
    file = f"FROM {IMAGE}\nLABEL org.opencontainers.image.version=next\n"
    output(
        ENGINE, "build", *(["--format", "docker"] if ENGINE == "podman" else []), "--tag", NEXT_IMAGE, "-", text=file
    )
    return NEXT_IMAGE


@pytest.fixture
def replicas() -> Iterator[Project]:
    with project("scale") as started:
        started.start(*SERVERS)
        yield started


@pytest.fixture
def load(replicas: Project) -> Iterator[Load]:
    load = Load(replicas.name)
    yield load
    load.close()


def check(counts: dict[str, dict[str, int]]) -> None:
    """Check that every call of the SDK was right. A client without retries sees errors of stopped servers."""
    print(json.dumps(counts, indent=2))
    assert counts["wrong"] == {}
    assert set(counts["right"]) == {"small", "large", "addresses", "image", "map", "asyncio", "raw"}
    assert [failure for failure in counts["failed"] if not failure.startswith("raw: UNAVAILABLE: ")] == []


def version_of(replicas: Project, server: str) -> Any:
    return replicas.container(server).inspect('{{index .Config.Labels "org.opencontainers.image.version"}}')


def test_no_call_is_lost_while_the_replicas_are_replaced(replicas: Project, load: Load, next_image: str) -> None:
    load.wait()
    replicas.environment["POOLSERVICE_IMAGE"] = next_image
    for server in SERVERS:
        assert version_of(replicas, server) != "next"
        replicas.start(server)
        assert version_of(replicas, server) == "next"
        load.wait()
    check(load.counts())


def test_no_call_is_lost_when_a_replica_is_killed(replicas: Project, load: Load) -> None:
    load.wait()
    output(ENGINE, "kill", "--signal", "KILL", replicas.container("server").name)
    load.wait()
    replicas.start("server")
    load.wait()
    counts = load.counts()
    check(counts)
    assert sum(counts["retries"].values()) > 0
