"""Tracing with OpenTelemetry. Nothing of it is imported unless a collector is configured."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from poolservice_server.installed import is_installed
from poolservice_server.settings import Settings, SettingsError

if TYPE_CHECKING:
    from poolservice_server.tracing.tracing import Tracing

_log = structlog.get_logger(__name__)

# OpenTelemetry's standard variables. The exporter and the SDK read these and further ones themselves.
_DISABLED = "OTEL_SDK_DISABLED"
_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

_INSTALL = "install poolservice with it, in a clone of the repository with: pip install '.[server,otel]'"


def start(settings: Settings, worker: int, environ: Mapping[str, str] = os.environ) -> "Tracing | None":
    """Return the tracing of this process; None if no collector is configured.

    Args:
        settings: the server's settings.
        worker: the number of this process among the workers.
        environ: the environment.

    Raises:
        SettingsError: --otlp-endpoint is set, but the extra is not installed, or one of OpenTelemetry's variables is
            wrong.
    """
    endpoint = settings.otlp_endpoint
    variable = next((name for name in _ENDPOINTS if environ.get(name)), None)
    if endpoint is None and variable is None:
        return None
    if reason := _why_off(endpoint, environ):
        _log.warning("tracing is off", reason=reason)
        return None
    if not is_installed("opentelemetry.exporter.otlp.proto.grpc"):
        if endpoint is not None:
            raise SettingsError(f"--otlp-endpoint needs the extra otel; {_INSTALL}")
        # Platforms set the variable for all their containers, also for those that do not trace.
        _log.warning("tracing is off", reason=f"{variable} is set, but the extra otel is missing; {_INSTALL}")
        return None
    try:
        from poolservice_server.tracing.provider import create_provider
        from poolservice_server.tracing.tracing import Tracing

        return Tracing(create_provider(endpoint, worker))
    except Exception as error:  # noqa: BLE001 - the errors for wrong variables have no common class
        reason = f"OpenTelemetry does not accept the variables OTEL_* of the environment: {error}"
    if endpoint is not None:
        raise SettingsError(f"--otlp-endpoint: {reason}")
    _log.warning("tracing is off", reason=reason)
    return None


def _why_off(endpoint: str | None, environ: Mapping[str, str]) -> str:
    """Return why nothing is traced although a collector is configured; empty if it is."""
    if environ.get(_DISABLED, "").strip().lower() == "true":
        return f"{_DISABLED} is true"
    if endpoint is not None:
        return ""
    if (exporter := environ.get(_EXPORTER, "")) and "otlp" not in exporter:
        return f"{_EXPORTER} is {exporter!r}, and this server exports with otlp only"
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "grpc")
    if protocol != "grpc":
        return f"the protocol is {protocol!r}, and this server exports with grpc only; set {_PROTOCOLS[0]}=grpc"
    return ""
