"""The callers on this machine, by the addresses that gRPC reports."""

import ipaddress
from urllib.parse import unquote


def is_local(peer: str) -> bool:
    """Return True if a caller is on this machine.

    Args:
        peer: the caller as gRPC names it: "ipv4:127.0.0.1:49152", "ipv6:%5B::1%5D:49152" or "unix:/path".
    """
    family, _, address = unquote(peer).partition(":")
    if family == "unix":
        return True
    try:
        host = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    mapped = getattr(host, "ipv4_mapped", None)
    return (mapped or host).is_loopback
