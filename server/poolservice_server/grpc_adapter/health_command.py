"""The command `poolservice-server health`, for the health checks of containers and for scripts.

It runs every few seconds in each container, so it imports little: gRPC and argparse, neither protobuf nor the settings.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# Read when gRPC is imported. Its own log would come before the one sentence that says what is wrong.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from poolservice_server.grpc_adapter.connection_fault import (
    TlsOptions,
    UnusableFile,
    connection_fault,
    tls_context,
)

_SERVING, _NOT_SERVING, _USAGE_ERROR, _UNREACHABLE = 0, 1, 2, 3

_DEFAULT_ADDRESS = "127.0.0.1:50051"
_CHECK = "/grpc.health.v1.Health/Check"

# A server that listens on all interfaces of its machine is reached at this one.
_ALL_INTERFACES = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - recognized, not bound

# HealthCheckResponse has one field, the status. In protobuf's encoding, a byte names the field and a byte is the value.
_SERVING_RESPONSE = b"\x08\x01"

# HealthCheckRequest has one field, the service: a byte that names it, its length and its characters.
_SERVICE_FIELD = b"\x0a"
_LONGEST_SERVICE_BYTES = 127

_BACKBONE = "backbone/"

_REFUSALS = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def main(arguments: Sequence[str]) -> int:
    """Check a server, print its status, and return the exit status."""
    try:
        options = _parser().parse_args(arguments)
        tls = _tls_options(options)
        address = _reachable(options.address)
        channel = _channel(address, tls)
        service = _service(options.service)
        seconds = _seconds(options.timeout)
    except (_UsageError, UnusableFile) as error:
        return _fail(str(error), _USAGE_ERROR)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}", _USAGE_ERROR)
    with channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_CHECK)
        request = _SERVICE_FIELD + bytes([len(service)]) + service if service else b""
        try:
            response = check(request, timeout=seconds)
        except grpc.RpcError as error:
            code = error.code()
            if code in _REFUSALS:
                return _fail(f"{address}: {_refusal(code, error.details() or '', options.service)}", _NOT_SERVING)
            reason = connection_fault(address, tls)
            if reason is None and code is grpc.StatusCode.DEADLINE_EXCEEDED:
                reason = f"no response within {seconds:g} seconds"
            return _fail(f"{address}: {reason or f'no response to a health check ({code.name})'}", _UNREACHABLE)
    is_serving = response == _SERVING_RESPONSE
    print("SERVING" if is_serving else "NOT_SERVING")  # noqa: T201 - the command's output
    return _SERVING if is_serving else _NOT_SERVING


class _UsageError(Exception):
    """The command line is wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message} (poolservice-server health --help lists the flags)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="poolservice-server health",
        description="Check if a server is ready, or alive, or if one of its backbones serves.",
        epilog="Exit statuses: 0 the server (or the backbone) is ready or alive; 1 it responded that it is not; 2 the "
        "command line is wrong; 3 no server responded.",
    )
    parser.add_argument(
        "--address",
        default=os.environ.get("POOLSERVICE_LISTEN") or _DEFAULT_ADDRESS,
        help="HOST:PORT or unix:PATH of the server. Default: POOLSERVICE_LISTEN, else %(default)s",
    )
    parser.add_argument(
        "--service",
        default="",
        help="what to check: liveness, or backbone/NAME. Default: readiness",
    )
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait. Default: %(default)s")
    parser.add_argument(
        "--ca",
        default=os.environ.get("POOLSERVICE_CA"),
        help="PEM file of the CA, or the certificate, of a server with TLS. Default: POOLSERVICE_CA",
    )
    parser.add_argument("--server-name", help="the name in the server's certificate, if it is not the address's host")
    parser.add_argument(
        "--client-certificate",
        default=os.environ.get("POOLSERVICE_CLIENT_CERTIFICATE"),
        help="PEM file, for a server that requires client certificates. Default: POOLSERVICE_CLIENT_CERTIFICATE",
    )
    parser.add_argument(
        "--client-key",
        default=os.environ.get("POOLSERVICE_CLIENT_KEY"),
        help="the PEM file of its key. Default: POOLSERVICE_CLIENT_KEY",
    )
    return parser


def _reachable(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not address.startswith("unix:") and not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise _UsageError(f"--address must be HOST:PORT, such as {_DEFAULT_ADDRESS}, or unix:PATH; got {address!r}")
    return f"{_ALL_INTERFACES[host]}:{port}" if host in _ALL_INTERFACES else address


def _service(name: str) -> bytes:
    service = name.encode()
    if len(service) > _LONGEST_SERVICE_BYTES:
        raise _UsageError(f"--service takes at most {_LONGEST_SERVICE_BYTES} bytes; got {len(service)}")
    return service


def _seconds(timeout: float) -> float:
    if not 0 < timeout < math.inf:
        raise _UsageError(f"--timeout must be a number of seconds above 0; got {timeout:g}")
    return timeout


def _tls_options(options: argparse.Namespace) -> TlsOptions | None:
    """Return the files for a connection with TLS; None without --ca."""
    if bool(options.client_certificate) != bool(options.client_key):
        raise _UsageError("--client-certificate and --client-key need each other")
    if not options.ca:
        if options.server_name:
            raise _UsageError("--server-name needs --ca: without TLS, a server has no certificate")
        return None
    certificate, key = (Path(name) if name else None for name in (options.client_certificate, options.client_key))
    return TlsOptions(Path(options.ca), options.server_name, certificate, key)


def _channel(address: str, tls: TlsOptions | None) -> grpc.Channel:
    """Return a channel to the server, without a proxy of the environment.

    Raises:
        OSError: a file cannot be read.
        UnusableFile: a file has another content.
    """
    arguments: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if tls is None:
        return grpc.insecure_channel(address, arguments)
    tls_context(tls)
    if tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    ca, key, certificate = (path.read_bytes() if path else None for path in (tls.ca, tls.key, tls.certificate))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), arguments)


def _refusal(code: grpc.StatusCode, details: str, service: str) -> str:
    """Return why a server that responds is not serving."""
    if code is grpc.StatusCode.NOT_FOUND and service.startswith(_BACKBONE):
        return f"there is no backbone {service.removeprefix(_BACKBONE)}"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "the server has no health service"
    return details


def _fail(reason: str, status: int) -> int:
    print(f"poolservice-server health: {reason}", file=sys.stderr)  # noqa: T201 - the command's output
    return status
