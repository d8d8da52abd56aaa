"""`--channelz`: what it shows, to whom, and that it is off by default."""

import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from poolservice_server.grpc_adapter.channelz import add_channelz
from poolservice_server.settings import SettingsError
from poolservice_server.testing import Service

StartServer = Callable[..., Service]

TIMEOUT_SECONDS = 60


def get_servers(address: str, token: str = "") -> bytes:
    """Return the encoded response of GetServers, or raise its error."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(address) as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/grpc.channelz.v1.Channelz/GetServers"
        )
        return method(b"", timeout=TIMEOUT_SECONDS, metadata=metadata)


def test_channelz_is_off_by_default(server_address: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        get_servers(server_address)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("flags", [(), ("--plain-server",)], ids=["default", "plain"])
def test_channelz_shows_the_server_to_callers_with_a_token(
    start_server: StartServer, flags: tuple[str, ...], tmp_path: Path
) -> None:
    channelz_pb2 = pytest.importorskip("grpc_channelz.v1.channelz_pb2")
    (tmp_path / "tokens").write_text("right\n")
    address = start_server("--channelz", "--auth-token-file", str(tmp_path / "tokens"), *flags).address
    (server,) = channelz_pb2.GetServersResponse.FromString(get_servers(address, "right")).server
    assert len(server.listen_socket) == 1
    assert server.data.calls_started >= 1
    for token in ("", "wrong"):
        with pytest.raises(grpc.RpcError) as refused:
            get_servers(address, token)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_channelz_without_its_package_is_a_settings_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc_channelz", None)
    with pytest.raises(SettingsError, match=r"pip install '\.\[server,channelz\]'"):
        add_channelz(grpc.aio.server(), lambda _context: "")
