"""The OpenTelemetry collector that gets the traces."""

import socket
from collections.abc import Iterator

from poolservice_server.doctor.finding import Finding, ok, warning
from poolservice_server.doctor.machine import Machine
from poolservice_server.settings import Settings

_SECONDS = 1.0


def check_collector(settings: Settings, _machine: Machine) -> Iterator[Finding]:
    """Connect to the collector. The server works without it, but its traces are lost."""
    if not settings.otlp_endpoint:
        return
    # What stands before the host may be a password.
    host, _, port = settings.otlp_endpoint.partition("//")[2].rpartition("@")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()
    except OSError as error:
        yield warning(
            "collector",
            f"no collector can be reached at {host}:{port} (--otlp-endpoint): {error.strerror or error}; traces are "
            "lost until it runs",
        )
    else:
        yield ok("collector", f"{host}:{port} (--otlp-endpoint) accepts connections")
