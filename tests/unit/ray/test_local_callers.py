"""Which callers are on this machine."""

import pytest

from poolservice_server.ray.local_callers import is_local


@pytest.mark.parametrize(
    "peer", ["ipv4:127.0.0.1:49152", "ipv4:127.1.2.3:1", "ipv6:%5B::1%5D:49152", "ipv6:[::ffff:127.0.0.1]:1", "unix:/x"]
)
def test_loopback_addresses_and_sockets_are_local(peer: str) -> None:
    assert is_local(peer)


@pytest.mark.parametrize(
    "peer", ["ipv4:192.0.2.1:49152", "ipv6:%5B2001:db8::1%5D:1", "ipv6:[::ffff:192.0.2.1]:1", "", "vsock:1:2", "ipv4:x"]
)
def test_other_callers_are_not(peer: str) -> None:
    assert not is_local(peer)
