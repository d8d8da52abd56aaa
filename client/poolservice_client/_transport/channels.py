"""How gRPC's channels are made for a client, blocking or for asyncio."""

import json
from typing import Any

import grpc
import grpc.aio

from poolservice.errors import InvalidRequest
from poolservice_client._settings.addresses import is_balanced
from poolservice_client._settings.credentials import TLS
from poolservice_client._settings.settings import Settings
from poolservice_client._transport.connections import Connection

POOL = "/poolservice.v1.PoolService/Pool"
POOL_BATCH = "/poolservice.v1.PoolService/PoolBatch"
POOL_STREAM = "/poolservice.v1.PoolService/PoolStream"
SERVER_INFO = "/poolservice.v1.PoolService/GetServerInfo"
HEALTH = "/grpc.health.v1.Health/Check"

_UNARY = (POOL, POOL_BATCH, SERVER_INFO, HEALTH)

# A server that is not there is told within seconds; gRPC would try for 20, and between tries wait for up to 120.
_CONNECT_MILLISECONDS = 3000
_FIRST_RECONNECT_MILLISECONDS = 200
_LONGEST_RECONNECT_MILLISECONDS = 1000

_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def open_connection(settings: Settings, address: str) -> Connection:
    """A connection of its own for blocking calls; it is made with its first call.

    Raises:
        InvalidRequest: an interceptor is none, or a certificate's file is.
    """
    options, compression = _options(settings, address), _compression(settings)
    if settings.tls is None:
        plain = grpc.insecure_channel(address, options, compression)
    else:
        plain = grpc.secure_channel(address, _credentials(settings.tls), options, compression)
    try:
        channel = grpc.intercept_channel(plain, *settings.interceptors) if settings.interceptors else plain
    except TypeError as error:
        plain.close()
        raise InvalidRequest(f"must be gRPC's client interceptors: {error}", field="interceptors") from None
    return Connection(address, channel, {method: channel.unary_unary(method) for method in _UNARY})


def open_aio_connection(settings: Settings, address: str) -> Connection:
    """A connection of its own for the calls of the running event loop; it is made with its first call.

    Raises:
        InvalidRequest: as in `open_connection`.
    """
    options, compression = _options(settings, address), _compression(settings)
    credentials = None if settings.tls is None else _credentials(settings.tls)
    try:
        if credentials is None:
            channel = grpc.aio.insecure_channel(address, options, compression, settings.interceptors)
        else:
            channel = grpc.aio.secure_channel(address, credentials, options, compression, settings.interceptors)
    except ValueError as error:
        raise InvalidRequest(f"must be grpc.aio's client interceptors: {error}", field="interceptors") from None
    return Connection(address, channel, {method: channel.unary_unary(method) for method in _UNARY})


def check_alive(settings: Settings) -> None:
    """Have gRPC do something, and come back whatever its outcome."""
    connection = open_connection(settings, settings.addresses[0])
    try:
        connection.methods[HEALTH](b"", timeout=_CONNECT_MILLISECONDS / 1000)
    except grpc.RpcError:
        # That it has an outcome is all that was asked.
        return
    finally:
        connection.channel.close()


def _options(settings: Settings, address: str) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MILLISECONDS),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MILLISECONDS),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_RECONNECT_MILLISECONDS),
        # Channels with equal options would share one connection, and with it one worker.
        ("grpc.use_local_subchannel_pool", 1),
        # See _retry, which does it instead.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
    ]
    if is_balanced(address):
        options.append(("grpc.service_config", _ROUND_ROBIN))
    if settings.tls is not None and settings.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", settings.tls.server_name))
    if settings.keepalive is not None:
        milliseconds = round(settings.keepalive * 1000)
        options += [
            ("grpc.keepalive_time_ms", milliseconds),
            ("grpc.keepalive_timeout_ms", milliseconds),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    return options


def _compression(settings: Settings) -> grpc.Compression | None:
    return grpc.Compression.Gzip if settings.compression == "gzip" else None


def _credentials(tls: TLS) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(*tls.read())
    except OSError as error:
        raise InvalidRequest(f"cannot read {error.filename}: {error.strerror}", field="tls") from None
