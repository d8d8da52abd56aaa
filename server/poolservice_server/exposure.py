"""Refuses an address that other machines can reach without TLS and authentication, unless that is intended."""

import ipaddress
import socket

import structlog

from poolservice_server.settings import Settings, SettingsError

_log = structlog.get_logger(__name__)


def check(settings: Settings) -> None:
    """Check that other machines can reach this server only over TLS and with a token or a client certificate.

    Warn about metrics that are open to them. With `insecure`, warn instead.

    Raises:
        SettingsError: other machines can reach the server without protection.
    """
    if settings.metrics_address and not is_local(settings.metrics_address) and settings.metrics_token_file is None:
        _log.warning(
            "whoever reaches the metrics address can read the metrics: use --metrics-token-file",
            metrics_address=settings.metrics_address,
        )
    if settings.metrics_token_file is not None and not settings.metrics_address:
        _log.warning("--metrics-token-file has no effect without --metrics-address, which serves the metrics")
    missing = _missing_protection(settings)
    if not missing or is_local(settings.address):
        return
    risk = f"{settings.address} (--address) is open to other machines, and {' and '.join(missing)}"
    if not settings.insecure:
        raise SettingsError(
            f"{risk}: add what is missing, listen on this machine only (--address 127.0.0.1:PORT), or start with "
            "--insecure (POOLSERVICE_INSECURE=true) if a proxy or the network keeps untrusted clients out"
        )
    _log.warning("serving without protection because of --insecure", risk=risk)


def is_local(address: str) -> bool:
    """Return True if only this machine can reach the address: a Unix socket or a loopback interface."""
    if address.startswith("unix:"):
        return True
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        # The check of the address reports a name that cannot be resolved.
        return True
    return all(ipaddress.ip_address(str(one[4][0])).is_loopback for one in found)


def _missing_protection(settings: Settings) -> list[str]:
    missing = []
    if settings.tls_certificate is None:
        missing.append("the traffic is not encrypted (--tls-certificate, --tls-key)")
    if settings.auth_token_file is None and settings.tls_client_ca is None:
        missing.append("anybody may call it (--auth-token-file or --tls-client-ca)")
    return missing
