"""The server's settings: flags, over the environment (POOLSERVICE_*), over a settings file, over the defaults."""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

MEBIBYTE = 2**20

#: What max_message_bytes may be at most: gRPC counts a message's bytes in 32 bits.
LARGEST_MESSAGE_BYTES = 1024 * MEBIBYTE

_PREFIX = "POOLSERVICE_"


class SettingsError(Exception):
    """A setting is wrong: says which, where it came from, and what would be right."""


class Settings(BaseSettings):
    """A gRPC service that pools images and tensors on torch.

    Every flag is also an environment variable, POOLSERVICE_ADDRESS for --address, and a key of the settings file.
    A flag wins over the environment, the environment over the file.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        extra="forbid",
        frozen=True,
        cli_prog_name="poolservice-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    config: Path | None = Field(
        default=None, description="A settings file in TOML: keys as the flags, max_batch_size = 64"
    )
    address: str = Field(
        default="127.0.0.1:50051",
        description="Where to listen: HOST:PORT, port 0 for a free one, 0.0.0.0 for every interface; or unix:PATH",
    )
    device: str = Field(
        default="auto", description="Where to compute: auto, cpu, cuda, cuda:N or mps; auto takes a GPU if there is one"
    )
    require_gpu: bool = Field(
        default=False, description="Refuse to start or to answer on the CPU instead of falling back to it"
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Processes that share the address, for CPUs; one drives a GPU. Each has its own queue and limits",
    )
    plain_server: bool = Field(
        default=False,
        description="Serve with grpc.aio's own server: slower, and started again when a malformed call ends it. Taken "
        "by itself where the installed grpcio lacks what the faster one needs",
    )
    threads: int = Field(
        default=0,
        ge=0,
        description="Batches that run at one time in each worker; 0 for its share of the cores, or 3 on a GPU",
    )
    decode_threads: int = Field(
        default=0,
        ge=0,
        description="Threads that decode and encode pictures in each worker, and on the CPU pool the large ones; 0 for "
        "its share of the cores",
    )
    max_message_bytes: int = Field(
        default=64 * MEBIBYTE,
        ge=1024,
        le=LARGEST_MESSAGE_BYTES,
        description=f"Bytes of one message, in either direction: 1024 to {LARGEST_MESSAGE_BYTES}",
    )
    max_image_pixels: int = Field(default=50_000_000, ge=1, description="Pixels of one picture, by its header")
    max_batch_size: int = Field(default=64, ge=1, description="Requests that run together at most")
    max_batch_bytes: int = Field(
        default=64 * MEBIBYTE, ge=1, description="Bytes of the requests that run together at most"
    )
    max_batch_delay: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="Seconds that a request may wait for company before it runs, at most 10",
    )
    max_queue_items: int = Field(
        default=1024, ge=1, description="Requests that wait or run at one time; more are refused"
    )
    max_queue_bytes: int = Field(
        default=512 * MEBIBYTE, ge=1, description="Bytes that waiting and running requests may take; more are refused"
    )
    grace_period: float = Field(
        default=30.0, ge=0.0, description="Seconds that accepted requests have to finish after SIGTERM or Ctrl-C"
    )
    tls_certificate: Path | None = Field(
        default=None, description="The server's certificate chain in PEM; with --tls-key turns TLS on"
    )
    tls_key: Path | None = Field(default=None, description="The certificate's private key in PEM")
    tls_client_ca: Path | None = Field(
        default=None, description="The CA in PEM whose certificates callers must bring (mutual TLS)"
    )
    auth_token_file: Path | None = Field(
        default=None, description="A file of bearer tokens, one a line; callers must bring one of them"
    )
    compression: bool = Field(
        default=False,
        description="Take compressed messages. A compressed megabyte can cost gigabytes: only for callers you trust",
    )
    metrics_address: str = Field(
        default="", description="HOST:PORT to serve Prometheus metrics on, PORT + N for worker N; not served if empty"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is logged"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="Log lines for people or for machines")

    @property
    def supervised(self) -> bool:
        """Whether a supervisor starts the serving processes, and starts again one that ends."""
        return self.workers > 1 or self.plain_server

    def metrics_address_of(self, worker: int) -> str:
        """Where a worker serves its metrics: each has a port of its own, the first one the port that was given."""
        if not self.metrics_address:
            return ""
        host, _, port = self.metrics_address.rpartition(":")
        return f"{host}:{int(port) + worker if int(port) else 0}"

    @field_validator("address", "metrics_address")
    @classmethod
    def _has_port(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if value and not value.startswith("unix:") and not (host and colon and port.isdecimal() and int(port) < 2**16):
            raise ValueError("must be HOST:PORT, such as 0.0.0.0:50051 or [::]:50051, or unix:PATH")
        return value

    @model_validator(mode="after")
    def _workers_share_a_port(self) -> Self:
        if self.workers > 1 and self.address.startswith("unix:"):
            raise ValueError("workers share a TCP port, and address is a Unix socket: use HOST:PORT, or one worker")
        if self.workers > 1 and (self.require_gpu or self.device not in ("auto", "cpu")):
            raise ValueError("one process drives a GPU: use workers with device cpu, or one worker")
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
        """The environment over what is passed to the constructor, which is the settings file; flags over both."""
        return env_settings, init_settings


def load(arguments: Sequence[str]) -> Settings:
    """Read the settings from a command line, the environment and the settings file.

    Raises:
        SettingsError: in words for the person who started the server.
        SystemExit: --help was asked for, or a flag is unknown.
    """
    source = CliSettingsSource[Any](Settings, cli_parse_args=list(arguments))
    named = source().get("config") or os.environ.get(f"{_PREFIX}CONFIG")
    try:
        return Settings(**(_read(Path(named)) if named else {}), _cli_settings_source=source)  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(problem) for problem in error.errors())) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {path}: {error}") from None


def _sentence(problem: Any) -> str:
    name = "_".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{name} is not a setting; poolservice-server --help lists them"
    rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    if not name:
        return str(rule)
    given = problem["input"]
    return f"{name} (--{name.replace('_', '-')}, {_PREFIX}{name.upper()}): {rule}; got {given!r}"
