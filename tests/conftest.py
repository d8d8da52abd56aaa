"""What every test may use: real servers, as processes on a free port."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from hypothesis import HealthCheck, settings

from poolservice_server.testing import Service, serve

# Where tests run in the background, Ctrl-C is ignored, and so it would be by every command that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A test says what is right, not how fast: a machine that others load must not fail it.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def server_address() -> Iterator[str]:
    """The address of a real server with default settings, which the whole run shares."""
    with serve() as service:
        yield service.address


@pytest.fixture
def start_server() -> Iterator[Callable[..., Service]]:
    """Starts servers of a test's own, as `poolservice_server.testing.serve` does; they are stopped after it."""
    with ExitStack() as started:

        def start(*flags: str, **options: Any) -> Service:
            return started.enter_context(serve(*flags, **options))

        yield start


@pytest.fixture(scope="session")
def server_command() -> list[str]:
    """The command line of the server, for tests of how it refuses to start."""
    return [sys.executable, "-m", "poolservice_server"]


@pytest.fixture(scope="session")
def photograph() -> Path:
    """A real photograph: Grace Hopper, 512x600, which matplotlib ships as sample data."""
    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
