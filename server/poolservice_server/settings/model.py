"""The settings: names, types, defaults, limits and help texts."""

import os
import sys
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from poolservice_server.settings.environment import EnvironmentSource

_MEBIBYTE = 2**20

_ALL_INTERFACES = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - recognized, not bound

#: The largest possible max_message_bytes. gRPC counts the bytes of a message in 32 bits.
LARGEST_MESSAGE_BYTES = 1024 * _MEBIBYTE


class Settings(BaseSettings):
    """Serve pooling of images and tensors over gRPC.

    Each flag is also an environment variable: --max-batch-size is POOLSERVICE_MAX_BATCH_SIZE. Only --address has
    another name, POOLSERVICE_LISTEN, because POOLSERVICE_ADDRESS tells clients where to find a server. Each flag is
    also a key of the settings file: max_batch_size. Flags override the environment, which overrides the file.

    Other commands, each with its own --help:
    `poolservice-server backbone` makes, checks and lists the folders of backbones.
    `poolservice-server doctor` checks this machine and these settings before the server starts.
    `poolservice-server health` checks a running server.
    `poolservice-server ray` serves with replicas on Ray Serve.
    `poolservice-server tune` measures which settings suit this machine and your jobs.
    """

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        cli_prog_name="poolservice-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_parse_none_str="none",
    )

    config: Path | None = Field(
        default=None,
        description="Settings file in TOML, with lines such as max_batch_size = 64; none: read no settings file",
    )
    address: str = Field(
        default="127.0.0.1:50051",
        description="Address to listen on: HOST:PORT, with port 0 for a free port and host 0.0.0.0 for all interfaces, "
        "or unix:PATH. Environment variable: POOLSERVICE_LISTEN",
    )
    device: str = Field(
        default="auto",
        description="Device to compute on: auto, cpu, cuda, cuda:N or mps; auto uses a GPU if there is one",
    )
    require_gpu: bool = Field(
        default=False,
        description="Refuse to start, or to process requests, on the CPU if there is no GPU or the GPU fails",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Number of worker processes that share the address; more than one only on CPUs. Each has its own "
        "queue and its own limits",
    )
    plain_server: bool = Field(
        default=False,
        description="Use grpc.aio's own server, which is slower. A malformed call can end it; a supervisor then starts "
        "it again. Always used with a grpcio version that the faster server does not support",
    )
    threads: int = Field(
        default=0,
        ge=0,
        description="Number of batches that run concurrently in each worker; 0: 3 on a GPU, else the worker's share of "
        "the cores",
    )
    decode_threads: int = Field(
        default=0,
        ge=0,
        description="Number of threads in each worker that decode and encode images and, on the CPU, pool large ones; "
        "0: the worker's share of the cores",
    )
    decode_isolation: Literal["thread", "process"] = Field(
        default="thread",
        description="Where images are decoded: thread, in the server's process; process, in child processes with "
        "limits on memory and time, one per decode thread, so that a crash of a decoder costs one call (Linux only). "
        "process takes about a millisecond longer per image",
    )
    max_message_bytes: int = Field(
        default=64 * _MEBIBYTE,
        ge=1024,
        le=LARGEST_MESSAGE_BYTES,
        description=f"Largest size of a request or response message in bytes: 1024 to {LARGEST_MESSAGE_BYTES}",
    )
    max_image_pixels: int = Field(
        default=50_000_000, ge=1, description="Largest number of pixels of an image, as its header declares them"
    )
    max_batch_size: int = Field(default=64, ge=1, description="Largest number of requests in one batch")
    max_batch_bytes: int = Field(
        default=64 * _MEBIBYTE, ge=1, description="Largest total size of the requests in one batch, in bytes"
    )
    max_batch_delay: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="Longest time in seconds that a request waits for batch-mates, at most 10; 0: never waits for them",
    )
    max_queue_items: int = Field(
        default=1024,
        ge=1,
        description="Largest number of requests that are queued or running; the server refuses more",
    )
    max_queue_bytes: int = Field(
        default=512 * _MEBIBYTE,
        ge=1,
        description="Most memory in bytes that queued and running requests need, together with the responses that are "
        "not sent yet; the server refuses more",
    )
    max_connections: int = Field(
        default=1000,
        ge=1,
        description="Largest number of connections of each worker; more are closed on arrival",
    )
    max_connection_age: float = Field(
        default=0.0,
        ge=0.0,
        le=86_400.0,
        description="Time in seconds after which the server asks a client to connect again, at most a day; calls in "
        "progress go on over the old connection. Clients that balance their calls over the addresses of a name then "
        "find new replicas; 0: never",
    )
    max_calls: int = Field(
        default=4096,
        ge=1,
        description="Largest number of calls in progress in each worker, with those whose request is still arriving or "
        "whose response is not read yet; the server refuses more",
    )
    max_unread_bytes: int = Field(
        default=0,
        ge=0,
        description="Most memory in bytes that the unread responses of one caller take, which is twice their size; the "
        "server refuses its further requests. 0: a quarter of max_queue_bytes",
    )
    receive_timeout: float = Field(
        default=60.0,
        gt=0.0,
        description="Time in seconds in which a request must arrive completely, or the call ends; a stream may be idle "
        "for ten times as long",
    )
    send_timeout: float = Field(
        default=60.0,
        gt=0.0,
        description="Time in seconds in which a caller must read a response, or the call ends; at most 5 seconds while "
        "unread responses take more than half of max_queue_bytes",
    )
    max_request_seconds: float = Field(
        default=10.0,
        gt=0.0,
        description="Longest estimated computing time of one request in seconds on one core; the server refuses longer "
        "ones before it queues or decodes them",
    )
    caller_max_requests: int = Field(
        default=0,
        ge=0,
        description="Largest number of requests of one caller that are queued or running; 0: seven eighths of "
        "max_queue_items, so that no caller fills the queue alone. A caller is a token, a client certificate or a "
        "connection",
    )
    caller_max_calls: int = Field(
        default=0,
        ge=0,
        description="Largest number of calls of one caller in progress in each worker; 0: seven eighths of max_calls, "
        "so that no caller takes all of them. Times twice max_message_bytes, it bounds the memory of the messages that "
        "one caller sends slowly",
    )
    caller_max_bytes: int = Field(
        default=0,
        ge=0,
        description="Most memory in bytes that those requests of one caller need; 0: seven eighths of max_queue_bytes. "
        "A caller that has no other request may send one of any size",
    )
    caller_max_seconds: float = Field(
        default=0.0,
        ge=0.0,
        description="Most estimated computing time in seconds of those requests of one caller; 0: no limit. A caller "
        "that has no other request may send one of any duration",
    )
    caller_max_rate: float = Field(
        default=0.0,
        ge=0.0,
        description="Largest number of requests per second of one caller, on average; as many as in one second may "
        "arrive at once; 0: no limit",
    )
    grace_period: float = Field(
        default=30.0,
        ge=0.0,
        le=86_400.0,
        description="Time in seconds that accepted requests have to finish after SIGTERM or Ctrl-C, at most a day",
    )
    backbone: tuple[Path, ...] | None = Field(
        default=None,
        description="Folder of a backbone, which has a backbone.toml. May be repeated; a list in the settings file; in "
        f"the environment, separated by {os.pathsep}; none: no such folder",
    )
    backbones: Path | None = Field(
        default=None,
        description="Folder whose subfolders are backbones, if they have a backbone.toml. Names that begin with a dot "
        "are skipped; none: no such folder",
    )
    heads: Path | None = Field(
        default=None,
        description="Folder whose subfolders are pool heads with learned weights, if they have a head.toml. The folder "
        "heads in a backbone's folder may have more. A broken head is reported in GetServerInfo and does not stop the "
        "server; none: no such folder",
    )
    skip_broken_backbones: bool = Field(
        default=False,
        description="Start without the backbones whose files are missing or wrong, and report them in GetServerInfo. "
        "Without it, the server refuses to start",
    )
    allow_code_models: bool = Field(
        default=False,
        description="Load backbones that can run any code: .pt2 programs, and architectures of modules other than "
        "poolservice and timm. Only for folders that you trust like the server's own code",
    )
    backbone_threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Number of threads that compute one run of a backbone on the CPU; at most as many runs at a time "
        "as fit the worker's share of the cores. 0: the number that is fastest when the server starts",
    )
    tls_certificate: Path | None = Field(
        default=None, description="The server's certificate chain in PEM, which needs its key; none: no TLS"
    )
    tls_key: Path | None = Field(default=None, description="The private key of the certificate in PEM; none: no TLS")
    tls_client_ca: Path | None = Field(
        default=None,
        description="CA in PEM; clients need a certificate of this CA (mutual TLS); none: no client certificates",
    )
    auth_token_file: Path | None = Field(
        default=None,
        description="File of bearer tokens, one per line: TOKEN or sha256:HASH, and optionally a name for its owner; "
        "clients need one of them; none: no tokens",
    )
    insecure: bool = Field(
        default=False,
        description="Serve other machines although there is no TLS, or although neither tokens nor client certificates "
        "are required. Without it, the server refuses to listen on such an address",
    )
    compression: bool = Field(
        default=False,
        description="Accept compressed messages. A compressed megabyte can take gigabytes of memory: only for trusted "
        "clients",
    )
    channelz: bool = Field(
        default=False,
        description="Serve gRPC's channelz, with which tools such as grpcdebug show the server's sockets: their peers' "
        "addresses, streams and messages. Its calls need a token if others do. Needs the extra channelz. Each worker "
        "shows its own sockets, and only --plain-server counts the calls that succeed",
    )
    metrics_address: str | None = Field(
        default=None,
        description="HOST:PORT on which to serve Prometheus metrics, those of all workers together; port 0 takes a "
        "free port; none: no metrics",
    )
    metrics_token_file: Path | None = Field(
        default=None,
        description="File of bearer tokens for the metrics, in the format of the other token file; none: whoever "
        "reaches the metrics address may read them",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged"
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Format of the log lines: text for people, json for programs"
    )
    slow_call_seconds: float = Field(
        default=1.0,
        ge=0.0,
        description="Time in seconds above which a call is logged as slow, with what it asked for and where its time "
        "went; 0: never. Calls that fail are logged, too. Of both, at most 2 lines per second and level are logged "
        "after the first 100, at most half of them about one caller, and the others are counted",
    )
    access_log: bool = Field(default=False, description="Log every call, without a limit on the number of lines")
    otlp_endpoint: str | None = Field(
        default=None,
        description="URL of an OpenTelemetry collector that gets traces over gRPC, such as http://localhost:4317. "
        "Needs the extra otel. OpenTelemetry's own variables work as well, such as OTEL_EXPORTER_OTLP_ENDPOINT, "
        "OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER; none: the URL of those variables",
    )

    @property
    def is_supervised(self) -> bool:
        """Return True if a supervisor starts the serving processes and restarts them when they end."""
        return self.workers > 1 or self.plain_server

    @property
    def largest_caller_requests(self) -> int:
        """Return how many requests one caller may have queued or running."""
        return self.caller_max_requests or self.max_queue_items - self.max_queue_items // 8

    @property
    def largest_caller_calls(self) -> int:
        """Return how many calls one caller may have in progress."""
        return self.caller_max_calls or self.max_calls - self.max_calls // 8

    @property
    def largest_caller_bytes(self) -> int:
        """Return how many bytes of memory those requests of one caller may need."""
        return self.caller_max_bytes or self.max_queue_bytes - self.max_queue_bytes // 8

    @field_validator("address")
    @classmethod
    def _is_path_or_has_port(cls, value: str) -> str:
        if not value.startswith("unix:") and not _has_port(value):
            raise ValueError("must be HOST:PORT, such as 0.0.0.0:50051 or [::]:50051, or unix:PATH")
        return value

    @field_validator(
        "config",
        "backbones",
        "heads",
        "tls_certificate",
        "tls_key",
        "tls_client_ca",
        "auth_token_file",
        "metrics_token_file",
        mode="before",
    )
    @classmethod
    def _is_path(cls, value: object) -> object:
        # Path("") is the current folder.
        if value == "":
            raise ValueError("must be a path")
        return value

    @field_validator("metrics_address")
    @classmethod
    def _has_port(cls, value: str | None) -> str | None:
        if value and not _has_port(value):
            raise ValueError("must be HOST:PORT, such as 127.0.0.1:9090 or [::1]:9090")
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_collector(cls, value: str | None) -> str | None:
        if value and not (value.startswith(("http://", "https://")) and _has_port(value.partition("//")[2])):
            raise ValueError("must be http://HOST:PORT or https://HOST:PORT, such as http://localhost:4317")
        return value or None

    @field_validator("backbone", mode="before")
    @classmethod
    def _is_list_of_folders(cls, value: object) -> object:
        if value is not None and not (
            isinstance(value, list | tuple) and all(path and isinstance(path, str | Path) for path in value)
        ):
            raise ValueError('must be a list of folders, such as ["/models/first", "/models/second"]')
        return value

    @field_validator("decode_isolation")
    @classmethod
    def _can_isolate(cls, value: str) -> str:
        if value == "process" and sys.platform != "linux":
            raise ValueError("process needs Linux; use thread")
        return value

    @model_validator(mode="after")
    def _workers_can_share(self) -> Self:
        if self.workers > 1 and self.address.startswith("unix:"):
            raise ValueError("workers share a TCP port, but --address is a Unix socket: use HOST:PORT, or --workers 1")
        if self.workers > 1 and (self.require_gpu or self.device not in ("auto", "cpu")):
            raise ValueError(
                "only one process can drive a GPU: use --workers with --device cpu and without --require-gpu, or "
                "--workers 1"
            )
        return self

    @model_validator(mode="after")
    def _addresses_differ(self) -> Self:
        if self.metrics_address and _overlap(self.address, self.metrics_address):
            raise ValueError("--address and --metrics-address are the same; give them different ports")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources below the flags: the environment, then the keyword arguments (the settings file)."""
        return EnvironmentSource(settings_cls), init_settings


def _has_port(address: str) -> bool:
    """Return True if an address has the form HOST:PORT."""
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal() and int(port) < 2**16


def _overlap(address: str, other: str) -> bool:
    """Return True if two addresses are the same port of the same interface. Port 0 is a different one each time."""
    host, _, port = address.rpartition(":")
    other_host, _, other_port = other.rpartition(":")
    if address.startswith("unix:") or int(port) != int(other_port) or not int(port):
        return False
    return host == other_host or not _ALL_INTERFACES.isdisjoint((host, other_host))
