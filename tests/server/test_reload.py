"""Certificates and tokens that change while the server runs, and SIGHUP."""

import hashlib
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
import pytest
import trustme
from tests.scraping import metrics_url, page, scrape
from tests.server.server_log import wait_for_log

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.grpc_adapter import private_names
from poolservice_server.testing import Service

StartServer = Callable[..., Service]

TIMEOUT_SECONDS = 60

BOTH_SERVERS = pytest.mark.parametrize(
    "server_flags",
    [
        pytest.param(
            (),
            marks=pytest.mark.skipif(
                bool(private_names.missing("multi_accept_server")),
                reason="the installed grpcio does not support the multi-accept server",
            ),
            id="multi-accept",
        ),
        pytest.param(("--plain-server",), id="plain"),
    ],
)


class TlsFolder:
    """The TLS files of a server, each of which can be renewed by another CA."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key, self.client_ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        self.flags = ("--tls-certificate", str(self.certificate), "--tls-key", str(self.key))
        self.renew(trustme.CA())

    def renew(self, ca: trustme.CA) -> None:
        issued = ca.issue_cert("localhost", "127.0.0.1")
        self.certificate.write_bytes(issued.cert_chain_pems[0].bytes())
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.ca = ca


@pytest.fixture
def tls(tmp_path: Path) -> TlsFolder:
    return TlsFolder(tmp_path)


def status(
    address: str, *, ca: trustme.CA | None = None, token: str = "", client: trustme.LeafCert | None = None
) -> grpc.StatusCode:
    """Return the status of one call on a new connection."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    if ca is None:
        channel = grpc.insecure_channel(address, options)
    else:
        key, chain = (client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()) if client else (None, None)
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.cert_pem.bytes(), key, chain), options)
    with channel:
        try:
            PoolServiceStub(channel).GetServerInfo(
                pb.GetServerInfoRequest(),
                timeout=TIMEOUT_SECONDS,
                metadata=(("authorization", f"Bearer {token}"),) if token else (),
            )
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def wait_for(status_now: Callable[[], grpc.StatusCode], wanted: grpc.StatusCode) -> None:
    """Call until the status is the wanted one; the test's own timeout ends an endless wait."""
    while status_now() is not wanted:
        pass


@BOTH_SERVERS
def test_new_connections_use_a_renewed_certificate(
    start_server: StartServer, tls: TlsFolder, server_flags: tuple[str, ...]
) -> None:
    server = start_server(*tls.flags, *server_flags)
    first = tls.ca
    assert status(server.address, ca=first) is grpc.StatusCode.OK
    tls.renew(trustme.CA())
    wait_for(lambda: status(server.address, ca=tls.ca), grpc.StatusCode.OK)
    assert status(server.address, ca=first) is grpc.StatusCode.UNAVAILABLE


@BOTH_SERVERS
def test_a_renewed_client_ca_decides_about_new_connections(
    start_server: StartServer, tls: TlsFolder, server_flags: tuple[str, ...]
) -> None:
    first, second = trustme.CA(), trustme.CA()
    old, new = first.issue_cert("old@example.org"), second.issue_cert("new@example.org")
    tls.client_ca.write_bytes(first.cert_pem.bytes())
    server = start_server(*tls.flags, "--tls-client-ca", str(tls.client_ca), *server_flags)
    assert status(server.address, ca=tls.ca, client=old) is grpc.StatusCode.OK
    assert status(server.address, ca=tls.ca, client=new) is grpc.StatusCode.UNAVAILABLE
    assert status(server.address, ca=tls.ca) is grpc.StatusCode.UNAVAILABLE
    tls.client_ca.write_bytes(second.cert_pem.bytes())
    wait_for(lambda: status(server.address, ca=tls.ca, client=new), grpc.StatusCode.OK)
    assert status(server.address, ca=tls.ca, client=old) is grpc.StatusCode.UNAVAILABLE


@BOTH_SERVERS
def test_tokens_follow_their_file(start_server: StartServer, tmp_path: Path, server_flags: tuple[str, ...]) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first\n")
    server = start_server("--auth-token-file", str(tokens), *server_flags)
    assert status(server.address, token="first") is grpc.StatusCode.OK
    hashed = hashlib.sha256(b"second").hexdigest()
    tokens.write_text(f"# the next one\nsha256:{hashed} alice\n")
    wait_for(lambda: status(server.address, token="second"), grpc.StatusCode.OK)
    assert status(server.address, token="first") is grpc.StatusCode.UNAUTHENTICATED
    assert status(server.address, token=f"sha256:{hashed}") is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("content", ["", "\n# nothing\n", "sha256:12\n", "one two three\n"])
def test_a_broken_token_file_keeps_the_old_tokens_and_is_counted(
    start_server: StartServer, tmp_path: Path, content: str
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first\n")
    server = start_server("--auth-token-file", str(tokens), "--metrics-address", "127.0.0.1:0")
    tokens.write_text(content)
    wait_for_log(server, "cannot use the new files, keeping the old ones")
    assert status(server.address, token="first") is grpc.StatusCode.OK
    assert scrape(server).value("poolservice_file_reloads_total", files="tokens", outcome="kept") == 1
    assert "first" not in server.log()


def test_a_broken_certificate_keeps_the_old_one(start_server: StartServer, tls: TlsFolder) -> None:
    server = start_server(*tls.flags)
    tls.certificate.write_text("not a certificate")
    wait_for_log(server, "contains no certificate in PEM")
    assert status(server.address, ca=tls.ca) is grpc.StatusCode.OK


@pytest.mark.parametrize("server_flags", [(), ("--workers", "2")])
def test_sighup_reads_the_files_again_and_ends_nothing(
    start_server: StartServer, tmp_path: Path, server_flags: tuple[str, ...]
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first\n")
    server = start_server("--auth-token-file", str(tokens), *server_flags)
    processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children()]
    server.process.send_signal(signal.SIGHUP)
    serving = max(1, len(server_flags))
    while server.log().count("read the files again ") < serving:
        assert server.process.poll() is None
    assert all(process.is_running() for process in processes)
    assert status(server.address, token="first") is grpc.StatusCode.OK


def test_sighup_without_files_ends_nothing(start_server: StartServer) -> None:
    server = start_server()
    server.process.send_signal(signal.SIGHUP)
    wait_for_log(server, "SIGHUP")
    assert status(server.address) is grpc.StatusCode.OK


def test_the_metrics_token_follows_its_file(start_server: StartServer, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first\n")
    server = start_server("--metrics-address", "127.0.0.1:0", "--metrics-token-file", str(tokens))
    assert "poolservice_calls_in_progress" in page(metrics_url(server), "first")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        page(metrics_url(server))
    tokens.write_text("second\n")
    wait_for_log(server, "read the files again ")
    assert "poolservice_calls_in_progress" in page(metrics_url(server), "second")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        page(metrics_url(server), "first")
