"""HTTP proxies: a client uses only the one that its settings name, and no proxy ever sees a token in clear text."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolservice_client import TLS, InvalidRequest, PoolClient, Unavailable
from poolservice_server.testing import Service

MakeClient = Callable[..., Any]
TOKEN = "not-for-others"


class ConnectProxy:
    """An HTTP proxy that connects every name to one address, and records all bytes that clients send.

    Attributes:
        address: its "host:port".
        target: the address that it connects to, whatever the client asks for; None to refuse.
        requests: the first line of each request.
        seen: all bytes that clients have sent.
    """

    def __init__(self, target: str | None) -> None:
        self.target = target
        self.requests: list[str] = []
        self.seen = bytearray()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self._start(self._accept)

    def close(self) -> None:
        # Closing alone does not wake a thread that waits in accept() or recv().
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._sockets.append(client)
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = client.recv(1)
            if not byte:
                return
            head += byte
        self.seen += head
        self.requests.append(head.split(b"\r\n")[0].decode())
        if self.target is None:
            client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            # The client may have left.
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            return
        host, port = self.target.rsplit(":", 1)
        server = socket.create_connection((host, int(port)))
        self._sockets.append(server)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        self._start(self._copy, server, client, None)
        self._copy(client, server, self.seen)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if kept is not None:
                    kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture(autouse=True)
def no_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables that exempt hosts from the proxy."""
    for variable in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def start_proxy() -> Iterator[Callable[..., ConnectProxy]]:
    with contextlib.ExitStack() as stack:

        def start(target: str | None) -> ConnectProxy:
            return stack.enter_context(contextlib.closing(ConnectProxy(target)))

        yield start


@pytest.fixture
def tls_server(certificates: Any, start_server: Callable[..., Service]) -> str:
    return start_server("--tls-certificate", certificates.certificate, "--tls-key", certificates.key).address


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy", "POOLSERVICE_PROXY"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_no_proxy_sees_the_calls_of_a_loopback_address(
    server_address: str,
    start_proxy: Callable[..., ConnectProxy],
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    host: str,
) -> None:
    proxy = start_proxy(server_address)
    monkeypatch.setenv(variable, f"http://{proxy.address}")
    async with make_client(server_address.replace("127.0.0.1", host), token=TOKEN) as client:
        assert (await client.pool()).shape == (3, 4, 4)
        assert await client.healthy()
    assert proxy.requests == []
    assert not proxy.seen


async def test_no_proxy_sees_the_calls_of_a_unix_socket(
    start_server: Callable[..., Service],
    start_proxy: Callable[..., ConnectProxy],
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    address = f"unix:{tmp_path}/socket"
    start_server("--address", address)
    proxy = start_proxy(None)
    monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
    async with make_client(address, proxy=f"http://{proxy.address}", token=TOKEN) as client:
        assert (await client.pool()).shape == (3, 4, 4)
    assert proxy.requests == []


@pytest.mark.parametrize("by", ["argument", "environment"])
async def test_a_client_uses_the_proxy_that_its_settings_name(
    server_address: str,
    start_proxy: Callable[..., ConnectProxy],
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    proxy = start_proxy(server_address)
    url = f"http://user:pass@{proxy.address}"
    if by == "environment":
        monkeypatch.setenv("POOLSERVICE_PROXY", url)
    async with make_client("pool.example.org:50051", **({"proxy": url} if by == "argument" else {})) as client:
        assert (await client.pool()).shape == (3, 4, 4)
    assert set(proxy.requests) == {"CONNECT pool.example.org:50051 HTTP/1.1"}
    assert b"Proxy-Authorization: Basic" in proxy.seen


async def test_a_token_passes_a_proxy_only_inside_tls(
    tls_server: str, certificates: Any, start_proxy: Callable[..., ConnectProxy], make_client: MakeClient
) -> None:
    proxy = start_proxy(tls_server)
    url = f"http://{proxy.address}"
    async with make_client("pool.example.org:443", proxy=url, token=TOKEN, tls=TLS(certificates.ca)) as client:
        assert (await client.pool()).shape == (3, 4, 4)
    assert proxy.requests
    assert TOKEN.encode() not in proxy.seen


@pytest.mark.parametrize("options", [{"token": TOKEN}, {"metadata": [("authorization", f"Bearer {TOKEN}")]}])
async def test_a_token_without_tls_is_refused_before_anything_is_sent(
    server_address: str, start_proxy: Callable[..., ConnectProxy], make_client: MakeClient, options: dict[str, Any]
) -> None:
    proxy = start_proxy(server_address)
    with pytest.raises(InvalidRequest, match="TLS") as raised:
        make_client("pool.example.org:443", proxy=f"http://{proxy.address}", **options)
    assert raised.value.field == "token"
    assert TOKEN not in str(raised.value)
    assert not proxy.seen


async def test_the_error_names_the_proxy_without_its_password(
    start_proxy: Callable[..., ConnectProxy], free_port: Callable[[], int], make_client: MakeClient
) -> None:
    refusing = start_proxy(None)
    for address in (refusing.address, f"127.0.0.1:{free_port()}"):
        async with make_client("pool.example.org:443", proxy=f"http://user:hidden@{address}", timeout=10) as client:
            with pytest.raises(Unavailable, match=f"the proxy {address}") as raised:
                await client.pool()
        assert "hidden" not in str(raised.value)
    assert refusing.requests


async def test_the_error_says_that_the_proxy_of_the_environment_is_not_used(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://user:hidden@proxy.example.org:3128")
    # The name exists nowhere, so that nothing leaves this machine.
    async with make_client("poolservice.invalid:443", timeout=10) as client:
        with pytest.raises(Unavailable, match="does not use the proxy in https_proxy; proxy= or") as raised:
            await client.pool()
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("url", ["proxy.example.org", "http://proxy.example.org", "https://a:1", "http://a:x", 3])
def test_a_malformed_proxy_is_refused(url: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be") as raised:
        PoolClient("pool.example.org:443", proxy=url)
    assert raised.value.field == "proxy"


def test_proxy_false_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLSERVICE_PROXY", "http://proxy.example.org:3128")
    PoolClient("pool.example.org:443", proxy=False, metadata=[("authorization", "Bearer x")]).close()
