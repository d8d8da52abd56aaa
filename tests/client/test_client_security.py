"""TLS, tokens, metadata, compression, interceptors and keepalive."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np
import pytest

from poolservice_client import (
    TLS,
    AsyncPoolClient,
    InvalidRequest,
    MaxPool2d,
    PoolClient,
    ServerError,
    Unauthenticated,
    Unavailable,
)
from poolservice_server.settings.model import Settings
from poolservice_server.testing import serve as start

if TYPE_CHECKING:
    from tests.client.conftest import Certificates

StartServer = Callable[..., Any]
MakeClient = Callable[..., Any]


# TLS and tokens


@pytest.fixture(scope="module")
def secure_address(certificates: "Certificates", tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that requires a client certificate and a token."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("right\n")
    flags = ["--tls-certificate", certificates.certificate, "--tls-key", certificates.key]
    flags += ["--tls-client-ca", certificates.ca, "--auth-token-file", str(tokens)]
    with start(*flags) as service:
        yield service.address


async def test_mutual_tls_and_a_token(
    secure_address: str, certificates: "Certificates", make_client: MakeClient
) -> None:
    tls = TLS(certificates.ca, certificates.client_certificate, certificates.client_key)
    async with make_client(secure_address, tls=tls, token="right") as client:
        assert (await client.pool()).shape == (3, 4, 4)
    async with make_client(secure_address, tls=tls, token="wrong") as client:
        with pytest.raises(Unauthenticated, match="token"):
            await client.pool()
        assert client.client.stats().retries == 0


async def test_the_environment_provides_the_credentials(
    secure_address: str, certificates: "Certificates", monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    monkeypatch.setenv("POOLSERVICE_CA", certificates.ca)
    monkeypatch.setenv("POOLSERVICE_CLIENT_CERTIFICATE", certificates.client_certificate)
    monkeypatch.setenv("POOLSERVICE_CLIENT_KEY", certificates.client_key)
    monkeypatch.setenv("POOLSERVICE_TOKEN", "right")
    async with make_client(secure_address) as client:
        assert (await client.pool()).shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("unknown authority", "TLS handshake .* does tls= name the authority of its certificate"),
        ("no certificate", r"if it requires a client certificate, pass it with tls=TLS\(certificate="),
        ("another certificate", "does it trust the authority of the client certificate in tls="),
        ("no encryption", "the server closes the connection; if it uses TLS, pass tls="),
    ],
)
async def test_a_failed_handshake_is_explained(
    secure_address: str, certificates: "Certificates", make_client: MakeClient, wrong: str, message: str
) -> None:
    tls = {
        "unknown authority": True,
        "no certificate": TLS(certificates.ca),
        "another certificate": TLS(certificates.ca, certificates.other_certificate, certificates.other_key),
        "no encryption": False,
    }[wrong]
    async with make_client(secure_address, tls=tls, timeout=10) as client:
        with pytest.raises(Unavailable, match=message) as raised:
            await client.pool()
    assert "no server answers" not in str(raised.value)


async def test_tls_for_a_server_without_it_is_explained(
    server_address: str, certificates: "Certificates", make_client: MakeClient
) -> None:
    async with make_client(server_address, tls=TLS(certificates.ca), timeout=10) as client:
        with pytest.raises(Unavailable, match="the server there does not use TLS"):
            await client.pool()


async def test_a_port_without_a_server_is_not_taken_for_a_failed_handshake(
    certificates: "Certificates", free_port: Callable[[], int], make_client: MakeClient
) -> None:
    for tls in (None, TLS(certificates.ca)):
        async with make_client(f"127.0.0.1:{free_port()}", tls=tls, timeout=10) as client:
            with pytest.raises(Unavailable, match=r"no server answers at .*Connection refused"):
                await client.pool()


@pytest.mark.parametrize(
    ("address", "tls", "allowed"),
    [
        ("localhost:1", None, True),
        ("127.0.0.1:1", None, True),
        ("[::1]:1", None, True),
        ("unix:/nowhere", None, True),
        ("dns:///localhost:1", None, True),
        ("example.org:443", True, True),
        ("example.org:443", None, False),
        ("10.0.0.1:443", False, False),
        (["localhost:1", "example.org:443"], None, False),
    ],
)
def test_a_token_is_never_sent_unencrypted_to_another_machine(address: Any, tls: bool | None, allowed: bool) -> None:
    if allowed:
        PoolClient(address, tls=tls, token="abc").close()
        return
    with pytest.raises(InvalidRequest, match="over TLS") as raised:
        PoolClient(address, tls=tls, token="abc")
    assert raised.value.field == "token"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"address": []}, "address"),
        ({"address": [1]}, "address"),
        ({"address": "localhost:1,"}, "address"),
        ({"connections": 0}, "connections"),
        ({"connections": 257}, "connections"),
        ({"retries": 3}, "retries"),
        ({"hedge_after": 0}, "hedge_after"),
        ({"compression": "zstd"}, "compression"),
        ({"keepalive": 0.5}, "keepalive"),
        ({"wait_for_ready": -1}, "wait_for_ready"),
        ({"tls": "ca.pem"}, "tls"),
        ({"tls": TLS(ca="/nowhere/ca.pem")}, "tls"),
        ({"token": "a\nb"}, "token"),
        ({"metadata": ["x"]}, "metadata"),
        ({"metadata": [("X-Upper", "1")]}, "metadata"),
        ({"metadata": [("grpc-timeout", "1")]}, "metadata"),
        ({"metadata": [("x-bin", "text")]}, "metadata"),
        ({"metadata": [("x", "ü")]}, "metadata"),
        ({"metadata": [("x", "a" * 20_000)]}, "metadata"),
        ({"metadata": [("x-bin", b"a" * 6_000)]}, "metadata"),
        ({"metadata": [("x", "")] * 300}, "metadata"),
        ({"token": "a" * 8000}, "metadata"),
        ({"interceptors": [object()]}, "interceptors"),
        ({"interceptors": 5}, "interceptors"),
        ({"interceptors": None}, "interceptors"),
        ({"keepalive": float("inf")}, "keepalive"),
        ({"keepalive": 10**400}, "keepalive"),
        ({"timeout": 10**400}, "timeout"),
        ({"timeout": []}, "timeout"),
        ({"token": 5}, "token"),
        ({"token": b"abc"}, "token"),
        ({"metadata": 5}, "metadata"),
        ({"metadata": None}, "metadata"),
        ({"metadata": {"ab": "c"}}, "metadata"),
        ({"metadata": "ab"}, "metadata"),
    ],
)
async def test_an_invalid_setting_is_named(make_client: MakeClient, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        async with make_client(**{"address": "localhost:1", **options}) as client:
            await client.pool()
    assert raised.value.field == field


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(InvalidRequest, match="together"):
        TLS(certificate="client.pem")


# Metadata, compression and interceptors


async def test_metadata_reaches_the_server(
    serve: Callable[[Callable[[bytes, grpc.ServicerContext], bytes]], str], make_client: MakeClient
) -> None:
    seen: dict[str, Any] = {}

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.update((key, value) for key, value in context.invocation_metadata())
        context.abort(grpc.StatusCode.INTERNAL, "seen")
        raise AssertionError

    metadata = [("x-request-of", "a test"), ("x-trace-bin", b"\x00\xff")]
    async with make_client(serve(behaviour), metadata=metadata, token="abc") as client:
        with pytest.raises(ServerError, match="seen"):
            await client.pool()
    assert seen["x-request-of"] == "a test"
    assert seen["x-trace-bin"] == b"\x00\xff"
    assert seen["authorization"] == "Bearer abc"


@pytest.mark.parametrize("pair", [("x-note", "a" * 7_000), ("x-note-bin", b"a" * 5_200)])
async def test_metadata_within_the_limit_always_reaches_the_server(
    server_address: str, make_client: MakeClient, pair: Any
) -> None:
    async with make_client(server_address, metadata=[pair], retries=None) as client:
        for _ in range(50):
            await client.pool()


async def test_metadata_that_interceptors_make_too_large_is_an_invalid_request(server_address: str) -> None:
    class Adding(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return continuation(details._replace(metadata=[("x-note", "a" * 20_000)]), request)

    with (
        PoolClient(server_address, interceptors=[Adding()]) as client,
        pytest.raises(InvalidRequest, match="with the metadata that the interceptors add") as raised,
    ):
        client.pool(np.ones((1, 2, 2)), MaxPool2d(2))
    assert raised.value.field == "metadata"
    assert client.stats().retries == 0


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("POOLSERVICE_ADRESS", "POOLSERVICE_ADDRESS"),
        ("POOLSERVICE_TOKEN_", "POOLSERVICE_TOKEN"),
        ("POOLSERVICE_CLIENT_CERT_IFICATE", "POOLSERVICE_CLIENT_CERTIFICATE"),
        ("POOLSERVICE_proxy", "POOLSERVICE_PROXY"),
    ],
)
def test_a_misspelt_variable_is_reported(monkeypatch: pytest.MonkeyPatch, variable: str, meant: str) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.warns(UserWarning, match=f"{variable} has no effect; did you mean {meant}") as caught:
        PoolClient("localhost:1")
    assert caught[0].filename == __file__


def test_settings_of_a_server_are_not_taken_for_misspelt_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in [*Settings.model_fields, "listen", "test_engine", "image"]:
        monkeypatch.setenv(f"POOLSERVICE_{field.upper()}", "x")
    monkeypatch.setenv("POOLSERVICE_ADDRESS", "localhost:1")
    PoolClient().close()


async def test_compression_if_the_server_supports_it(start_server: StartServer, make_client: MakeClient) -> None:
    address = start_server("--compression").address
    async with make_client(address, compression="gzip") as client:
        np.testing.assert_array_equal(await client.pool(), client.x.reshape(3, 4, 2, 4, 2).max((2, 4)))


async def test_compression_if_the_server_does_not_support_it(server_address: str, make_client: MakeClient) -> None:
    async with make_client(server_address, compression="gzip") as client:
        with pytest.raises(ServerError, match="start it with --compression"):
            await client.pool()


class Recorder(grpc.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[str] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.methods.append(details.method)
        return continuation(details, request)


class AsyncRecorder(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[bytes] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.methods.append(details.method)
        return await continuation(details, request)


async def test_interceptors_see_each_call(server_address: str) -> None:
    blocking, awaited = Recorder(), AsyncRecorder()
    with PoolClient(server_address, interceptors=[blocking]) as client:
        assert client.health()
    assert blocking.methods == ["/grpc.health.v1.Health/Check"]
    async with AsyncPoolClient(server_address, interceptors=[awaited]) as aclient:
        assert await aclient.health()
    assert awaited.methods == [b"/grpc.health.v1.Health/Check"]


async def test_calls_with_keepalive(server_address: str, make_client: MakeClient) -> None:
    async with make_client(server_address, keepalive=10) as client:
        assert (await client.pool()).shape == (3, 4, 4)
