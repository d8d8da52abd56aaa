"""The settings of a service on Ray Serve: its own flags, and those of the server that Serve can honour."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from poolservice_server.settings import Settings, SettingsError

_NO_TLS = "Serve's gRPC proxy has no TLS; put a proxy with TLS in front of it"
_NO_LIMIT = "Serve's gRPC proxy has no such limit"
_NO_METRICS = "replicas serve no metrics of their own; Ray exports those of Serve (ray_serve_*)"

#: The settings that have no effect with Serve, and why.
_NOT_HONOURED: Mapping[str, str] = MappingProxyType(
    {
        "workers": "use --replicas",
        "plain_server": "Serve has its own gRPC server",
        "tls_certificate": _NO_TLS,
        "tls_key": _NO_TLS,
        "tls_client_ca": _NO_TLS,
        "auth_token_file": "without TLS, tokens would be readable on the network, and Serve's gRPC proxy checks none",
        "compression": "Serve's gRPC proxy always accepts compressed messages",
        "max_connections": _NO_LIMIT,
        "max_connection_age": _NO_LIMIT,
        "channelz": "Serve's gRPC proxy has no channelz",
        "caller_max_calls": _NO_LIMIT,
        "receive_timeout": _NO_LIMIT,
        "send_timeout": _NO_LIMIT,
        "metrics_address": _NO_METRICS,
        "metrics_token_file": _NO_METRICS,
    }
)


class RaySettings(Settings):
    """Serve pooling of images and tensors over gRPC with replicas on Ray Serve.

    Starts Ray on this machine and deploys the service on it until SIGTERM or Ctrl-C. To deploy it on a cluster, use
    `serve deploy` with server/deploy/ray/serve.yaml.

    The flags are those of `poolservice-server` and the ones for replicas. A limit applies to each replica. Serve's gRPC
    proxy has neither TLS nor tokens, so the flags for these are refused, as are other flags without an effect.

    Serve listens on all interfaces. If --address has a loopback host, as by default, calls of other machines are
    refused.
    """

    model_config = SettingsConfigDict(cli_prog_name="poolservice-server ray")

    replicas: int = Field(
        default=1, ge=1, le=1000, description="Number of replicas; with max_replicas, the smallest number of them"
    )
    max_replicas: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Largest number of replicas; Serve then adds and removes replicas so that each has about "
        "target_ongoing_requests; 0: always as many as replicas says",
    )
    target_ongoing_requests: float = Field(
        default=16.0,
        gt=0.0,
        description="Number of calls in progress per replica, with the queued ones, that Serve aims at if max_replicas "
        "is set",
    )
    replica_cpus: float = Field(
        default=1.0,
        gt=0.0,
        le=1024.0,
        description="Number of cores of each replica, with which Ray places it and it chooses its numbers of threads",
    )
    replica_gpus: float = Field(
        default=0.0,
        ge=0.0,
        le=64.0,
        description="Number of GPUs of each replica; a fraction such as 0.5 lets two replicas share one GPU and its "
        "memory",
    )

    @model_validator(mode="after")
    def _has_an_order(self) -> Self:
        if self.max_replicas and self.max_replicas < self.replicas:
            raise ValueError(
                f"--max-replicas ({self.max_replicas}) must be at least --replicas ({self.replicas}), or 0 for a fixed "
                "number"
            )
        return self

    @model_validator(mode="after")
    def _uses_its_gpus(self) -> Self:
        if self.replica_gpus and self.device == "cpu":
            raise ValueError(
                f"replica_gpus ({self.replica_gpus:g}) reserves GPUs that replicas with --device cpu do not use; leave "
                "out one of the two"
            )
        return self


def check_honoured(settings: Settings) -> None:
    """Check that no setting has been changed that has no effect with Serve.

    Raises:
        SettingsError: one has.
    """
    problems = [
        f"--{name.replace('_', '-')} has no effect with Ray Serve: {reason}"
        for name, reason in _NOT_HONOURED.items()
        if getattr(settings, name) != Settings.model_fields[name].default
    ]
    if settings.address.startswith("unix:"):
        problems.append("--address must be HOST:PORT with Ray Serve, which listens on a TCP port")
    if problems:
        raise SettingsError("; ".join(problems))
