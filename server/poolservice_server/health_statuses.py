"""The statuses of gRPC's health checks by their names, with and without Ray.

The names:

- "" and the name of the service: readiness, see `readiness`;
- "liveness": always true. The event loop answers this like every other call, so that no response means that it is
  stuck;
- "backbone/NAME": the readiness of one backbone.
"""

from collections.abc import Callable
from functools import partial

from poolservice_server.backbones.backbone import Backbones
from poolservice_server.readiness import Readiness

_LIVENESS = "liveness"


def health_statuses(service: str, readiness: Readiness, backbones: Backbones) -> dict[str, Callable[[], bool]]:
    """Return, for each name, a function that returns True while health checks report SERVING.

    Args:
        service: the full name of the service.
        readiness: the readiness of the process and of its backbones.
        backbones: the backbones, with those that the process started without.
    """
    statuses: dict[str, Callable[[], bool]] = {
        "": lambda: readiness.is_ready,
        service: lambda: readiness.is_ready,
        _LIVENESS: lambda: True,
    }
    for broken in backbones.broken:
        statuses[_backbone(broken.name)] = lambda: False
    # A broken folder may have the name of a backbone that serves.
    for name in backbones.serving:
        statuses[_backbone(name)] = partial(readiness.serves, name)
    return statuses


def unknown_name(service: str) -> str:
    """Return the message for a check with a name that does not exist."""
    return f'unknown service; ask for "" (the server itself), "{service}", "{_LIVENESS}", or "{_backbone("NAME")}"'


def _backbone(name: str) -> str:
    return f"backbone/{name}"
