"""What every test may use: real servers, as processes on a free port."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pytest

START_SECONDS = 60.0
STOP_SECONDS = 30.0
SERVER_COMMAND = (sys.executable, "-m", "poolservice_server")


@dataclass
class ServerProcess:
    """A running `poolservice-server` and where it listens."""

    process: subprocess.Popen[str]
    address: str
    banner: str

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(STOP_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status


def start_process(
    *flags: str, env: dict[str, str] | None = None, log: Path | None = None, python_code: str | None = None
) -> ServerProcess:
    """Start `poolservice-server` on a free port and wait until it serves; its log goes to `log` or is inherited.

    With `python_code` that is run in its place, with the same flags.
    """
    start = [*SERVER_COMMAND] if python_code is None else [sys.executable, "-c", python_code]
    command = [*start, "--address", "127.0.0.1:0", *flags]
    with open(log, "w") if log else open(os.devnull, "w") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr if log else None,
            text=True,
            env={**os.environ, **(env or {})},
        )
    assert process.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    ready, _, _ = select.select([process.stdout], [], [], deadline - time.monotonic())
    banner = process.stdout.readline().strip() if ready else ""
    if not banner:
        process.kill()
        process.wait()
        pytest.fail(f"{' '.join(command)} did not serve within {START_SECONDS:.0f} s")
    return ServerProcess(process, banner.split()[-1], banner)


@pytest.fixture(scope="session")
def server_address() -> Iterator[str]:
    """The address of a real server with default settings, which the whole run shares."""
    server = start_process()
    yield server.address
    assert server.stop() == 0


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers of a test's own, with the flags and environment it gives; they are stopped after it."""
    started: list[ServerProcess] = []

    def start(*flags: str, **options: Any) -> ServerProcess:
        started.append(start_process(*flags, **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def server_command() -> list[str]:
    """The command line of the server, for tests of how it refuses to start."""
    return [*SERVER_COMMAND]


@pytest.fixture(scope="session")
def photograph() -> Path:
    """A real photograph: Grace Hopper, 512x600, which matplotlib ships as sample data."""
    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
