"""Opening gRPC channels with a client's settings, for blocking calls and for asyncio."""

import json
from typing import Any

import grpc
import grpc.aio

from poolservice.errors import InvalidRequest
from poolservice_client._settings.addresses import is_balanced_by_grpc
from poolservice_client._settings.credentials import TLS
from poolservice_client._settings.proxy import uses_proxy
from poolservice_client._settings.settings import Settings
from poolservice_client._transport.connections import Connection
from poolservice_client._transport.methods import ALL_METHODS, HEALTH, HEALTH_REQUEST, SERVICE_NAME

# A missing server is reported within seconds. gRPC's defaults are 20 s per attempt and up to 120 s between attempts.
_CONNECT_MILLISECONDS = 3000
_FIRST_RECONNECT_MILLISECONDS = 200
_MAX_RECONNECT_MILLISECONDS = 1000

# For a name with several machines, over which the calls take turns. A machine that reports NOT_SERVING, because it is
# stopping or its device fails, gets no calls, although its connection is open. Without a health service, it serves.
_ROUND_ROBIN = json.dumps(
    {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": SERVICE_NAME}}
)
# gRPC resolves a name again when a connection is lost, but by default only once in 30 seconds. A server that has
# replaced another one would get no calls meanwhile.
_MIN_RESOLUTION_MILLISECONDS = 1000


def open_connection(settings: Settings, address: str) -> Connection:
    """Return a new connection for blocking calls. gRPC connects with the first call.

    Raises:
        InvalidRequest: an interceptor has the wrong type, or a certificate's file cannot be read.
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
    return Connection(address, channel, {method: channel.unary_unary(method) for method in ALL_METHODS})


def open_aio_connection(settings: Settings, address: str) -> Connection:
    """Return a new connection for calls of the running event loop. gRPC connects with the first call.

    Raises:
        InvalidRequest: as for `open_connection`.
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
    return Connection(address, channel, {method: channel.unary_unary(method) for method in ALL_METHODS})


def make_test_call(settings: Settings) -> None:
    """Make a call over a connection of its own and return, whatever the call's outcome."""
    connection = open_connection(settings, settings.addresses[0])
    try:
        connection.methods[HEALTH](HEALTH_REQUEST, timeout=_CONNECT_MILLISECONDS / 1000)
    except grpc.RpcError:
        # An error is an outcome, too: gRPC did not hang.
        return
    finally:
        connection.channel.close()


def _options(settings: Settings, address: str) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MILLISECONDS),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MILLISECONDS),
        ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MILLISECONDS),
        ("grpc.dns_min_time_between_resolutions_ms", _MIN_RESOLUTION_MILLISECONDS),
        # By default, channels with equal options share one connection and therefore one worker.
        ("grpc.use_local_subchannel_pool", 1),
        # The module `retry` replaces gRPC's retries and says why.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
    ]
    proxy = settings.proxy if uses_proxy(address) else None
    # Without this, gRPC sends even the calls of a loopback address through the proxy that the environment names.
    options.append(("grpc.enable_http_proxy", int(proxy is not None)))
    if proxy is not None:
        options.append(("grpc.http_proxy", proxy.url))
    if is_balanced_by_grpc(address):
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
