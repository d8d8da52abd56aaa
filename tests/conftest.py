"""Fixtures for all tests: real servers, as processes on free ports, and an environment without settings."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import pytest
from hypothesis import HealthCheck, settings

from poolservice_server.testing import Service, serve

if TYPE_CHECKING:
    from tests.backbones.models import TinyBackbone

# A shell that runs tests in the background ignores Ctrl-C, and the processes that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Settings in the environment of the test run must not change what the tests see, in this process or in those that they
# start. Only the variables for the tests of the container images stay.
for variable in [name for name in os.environ if name.startswith("POOLSERVICE_")]:
    if variable not in ("POOLSERVICE_TEST_ENGINE", "POOLSERVICE_IMAGE", "POOLSERVICE_CLIENT_IMAGE"):
        del os.environ[variable]

# gRPC would send even the calls of raw channels to 127.0.0.1 through a proxy of the environment.
os.environ["no_grpc_proxy"] = "127.0.0.1,localhost"  # noqa: SIM112 - gRPC reads it in lower case

# Tests check results, not speed: a busy machine must not fail them.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# The same device on every machine, also on one with a GPU. A test that wants another one adds its own --device.
_DEFAULT_FLAGS = ("--device", "cpu")


@pytest.fixture(scope="session")
def server_address() -> Iterator[str]:
    """Return the address of a real server on the CPU with default settings, which the whole test run shares."""
    with serve(*_DEFAULT_FLAGS) as service:
        yield service.address


@pytest.fixture(scope="session")
def mobilenetv2(tmp_path_factory: pytest.TempPathFactory) -> "TinyBackbone":
    """Return a tiny backbone with the name, outputs and some labels of the one that the documents use.

    The documents use labels of ImageNet and the outputs of an imported classifier: features and logits.
    """
    # onnx needs a newer protobuf than the oldest supported grpcio, with which other tests run.
    from tests.backbones.models import tiny_backbone

    folder = tmp_path_factory.mktemp("backbones") / "mobilenetv2"
    labels = ("tench", "goldfish", "brambling", "magpie", "tabby")
    return tiny_backbone(folder, name="mobilenetv2", labels=labels, logits=True)


@pytest.fixture(scope="session")
def backbone_address(mobilenetv2: "TinyBackbone") -> Iterator[str]:
    """Return the address of a server like that of `server_address` with the backbone `mobilenetv2`."""
    with serve(*_DEFAULT_FLAGS, "--backbone", str(mobilenetv2.path)) as service:
        yield service.address


@pytest.fixture
def start_server() -> Iterator[Callable[..., Service]]:
    """Return a function that starts a server on the CPU with more flags; the fixture stops it after the test.

    The function takes the arguments of `poolservice_server.testing.serve`.
    """
    with ExitStack() as stack:

        def start(*flags: str, **options: Any) -> Service:
            return stack.enter_context(serve(*_DEFAULT_FLAGS, *flags, **options))

        yield start


@pytest.fixture(scope="session")
def photograph() -> Path:
    """Return a real photograph: Grace Hopper, 512x600 pixels, from matplotlib's sample data."""
    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
