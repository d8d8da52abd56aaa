"""The device: opened and tried as the server does when it starts. This imports torch, so it is the last check."""

import warnings
from collections.abc import Iterator
from importlib.util import find_spec

from structlog.testing import capture_logs

from poolservice_server.doctor.finding import Finding, ok, problem, warning
from poolservice_server.doctor.machine import Machine
from poolservice_server.doctor.versions import version_of
from poolservice_server.settings import Settings


def check_device(settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Open the device, compute a known result on it, and look for a GPU that the installed torch cannot use."""
    if find_spec("torch") is None:
        # The check of the packages says so.
        return
    with warnings.catch_warnings(record=True) as caught, capture_logs() as events:
        warnings.simplefilter("always")
        try:
            from poolservice_server.backend import choose_backend, torch_version
            from poolservice_server.backend.device import NoDevice
        except (ImportError, OSError) as error:
            # OSError is that of a shared library that is missing or damaged.
            yield problem("device", f"torch {version_of('torch')} cannot be imported ({error}); install it again")
            return
        try:
            backend = choose_backend(settings.device, require_gpu=settings.require_gpu)
        except NoDevice as error:
            yield problem("device", f"{error} (--device, --require-gpu){_driver(caught)}")
            return
    for event in events:
        yield warning("device", f"{event['event']}: {event['reason']}{_driver(caught)}")
    device = backend.devices()[0]
    if device.name == "cpu" and settings.device == "auto" and not events and _has_gpu(machine):
        yield warning(
            "device",
            f"this machine has an NVIDIA GPU, and torch {torch_version()} cannot use it, so the server runs on the "
            "CPU; install a CUDA build of torch, or choose --device cpu",
        )
    else:
        yield ok("device", f"{device.name} ({device.description}) computes correctly with torch {torch_version()}")


def _has_gpu(machine: Machine) -> bool:
    return any((machine.root / "dev").glob("nvidia[0-9]*"))


def _driver(caught: list[warnings.WarningMessage]) -> str:
    """Return what torch warned of, such as a driver that is too old."""
    texts = [str(one.message).splitlines()[0] for one in caught if "CUDA" in str(one.message)]
    return f"; torch says: {texts[0]}" if texts else ""
