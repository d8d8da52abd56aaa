"""The command `poolservice-server health`, for the health checks of containers and for scripts.

It runs every few seconds in each container, so it imports little: gRPC and argparse, neither protobuf nor the settings.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc

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

_REFUSALS = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def main(arguments: Sequence[str]) -> int:
    """Check a server, print its status, and return the exit status."""
    options = _parser().parse_args(arguments)
    service: bytes = options.service.encode()
    if len(service) > _LONGEST_SERVICE_BYTES:
        return _fail(f"--service takes at most {_LONGEST_SERVICE_BYTES} bytes; got {len(service)}", _USAGE_ERROR)
    address = _reachable(options.address)
    try:
        channel = _channel(address, options)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}", _USAGE_ERROR)
    with channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_CHECK)
        request = _SERVICE_FIELD + bytes([len(service)]) + service if service else b""
        try:
            response = check(request, timeout=options.timeout)
        except grpc.RpcError as error:
            reason = f"{address}: {error.code().name}: {error.details()}"
            return _fail(reason, _NOT_SERVING if error.code() in _REFUSALS else _UNREACHABLE)
    is_serving = response == _SERVING_RESPONSE
    print("SERVING" if is_serving else "NOT_SERVING")  # noqa: T201 - the command's output
    return _SERVING if is_serving else _NOT_SERVING


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="poolservice-server health",
        description="Check if a server is ready, or alive, or if one of its backbones serves.",
        epilog="Exit statuses: 0 it is; 1 it is not; 2 the command line is wrong; 3 no server responded.",
    )
    parser.add_argument(
        "--address",
        default=os.environ.get("POOLSERVICE_LISTEN", _DEFAULT_ADDRESS),
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
    return f"{_ALL_INTERFACES[host]}:{port}" if host in _ALL_INTERFACES else address


def _channel(address: str, options: argparse.Namespace) -> grpc.Channel:
    """Return a channel to the server, without a proxy of the environment.

    Raises:
        OSError: a file cannot be read.
    """
    arguments: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if not options.ca:
        return grpc.insecure_channel(address, arguments)
    if options.server_name:
        arguments.append(("grpc.ssl_target_name_override", options.server_name))
    ca, key, certificate = (
        Path(name).read_bytes() if name else None
        for name in (options.ca, options.client_key, options.client_certificate)
    )
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), arguments)


def _fail(reason: str, status: int) -> int:
    print(f"poolservice-server: {reason}", file=sys.stderr)  # noqa: T201 - the command's output
    return status
