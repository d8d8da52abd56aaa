"""Two replicas are replaced one after the other while clients call them, and one is killed: no call is lost."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import pytest
from tests.server.compose_project import CLIENT_IMAGE, ENGINE, IMAGE, Project, needs_engine, output, project

pytestmark = [pytest.mark.image, needs_engine, pytest.mark.timeout(600)]

SERVERS = ("server", "server-2")
NEXT_IMAGE = f"{IMAGE}-upgrade-test"
SDK_KINDS = ("small", "large", "image", "map", "asyncio")
LOAD = Path(__file__).with_name("container_load.py")


class Load:
    """A process that calls the servers in several ways."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
def loads(replicas: Project) -> Iterator[list[Load]]:
    """Return two loads: one from a container, with the name of all servers, and one from outside, with their ports."""
    inside = [ENGINE, "run", "--rm", "--interactive", "--network", f"{replicas.name}_default"]
    inside += ["--volume", f"{LOAD}:/load.py:ro", "--entrypoint", "python", CLIENT_IMAGE, "/load.py"]
    addresses = ",".join(map(replicas.address, SERVERS))
    loads = [
        Load(*inside, "dns:///pool:50051", *SDK_KINDS, "raw"),
        Load(sys.executable, str(LOAD), addresses, *SDK_KINDS),
    ]
    yield loads
    for load in loads:
        load.close()


def wait(loads: list[Load]) -> None:
    for load in loads:
        load.wait()


def check(loads: list[Load]) -> int:
    """Check that every call of the SDK was right, and return its retries.

    A client without retries sees the errors of servers that are stopping or gone.
    """
    all_counts = [load.counts() for load in loads]
    print(json.dumps(all_counts, indent=2))
    for counts in all_counts:
        assert counts["wrong"] == {}
        assert counts["right"].keys() >= set(SDK_KINDS)
        assert [failure for failure in counts["failed"] if not failure.startswith("raw: UNAVAILABLE: ")] == []
    return sum(sum(counts["retries"].values()) for counts in all_counts)


def version_of(replicas: Project, server: str) -> Any:
    return replicas.container(server).inspect('{{index .Config.Labels "org.opencontainers.image.version"}}')


def test_no_call_is_lost_while_the_replicas_are_replaced(replicas: Project, loads: list[Load], next_image: str) -> None:
    wait(loads)
    replicas.environment["POOLSERVICE_IMAGE"] = next_image
    for server in SERVERS:
        assert version_of(replicas, server) != "next"
        replicas.start(server)
        assert version_of(replicas, server) == "next"
        wait(loads)
    check(loads)


def test_no_call_is_lost_when_a_replica_is_killed(replicas: Project, loads: list[Load]) -> None:
    wait(loads)
    output(ENGINE, "kill", "--signal", "KILL", replicas.container("server").name)
    wait(loads)
    replicas.start("server")
    wait(loads)
    assert check(loads) > 0
