"""TLS files are checked when a client is created; the error names the setting, the file and what is wrong."""

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization

from poolservice_client import TLS, AsyncPoolClient, InvalidRequest, PoolClient

if TYPE_CHECKING:
    from tests.client.conftest import Certificates

BUNDLE_CERTIFICATES = 200


@pytest.fixture
def files(certificates: "Certificates", tmp_path: Path) -> Callable[[str], str]:
    """Returns the path of a file by its name: right ones of `certificates`, and wrong ones."""
    ca, key = Path(certificates.ca).read_text(), Path(certificates.client_key).read_bytes()
    encrypted = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    wrong = {
        "empty": b"",
        "text": b"<html>Please log in</html>",
        "der": ssl.PEM_cert_to_DER_cert(ca),
        "cut": ca.encode()[:200] + b"\n-----END CERTIFICATE-----\n",
        "cut key": key[:120] + b"\n" + key.splitlines()[-1],
        "encrypted": encrypted,
    }
    for name, data in wrong.items():
        (tmp_path / name).write_bytes(data)

    def path(name: str) -> str:
        if name in wrong or name in ("missing", "."):
            return str(tmp_path / name)
        return str(getattr(certificates, name))

    return path


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
@pytest.mark.parametrize(
    ("names", "setting", "problem"),
    [
        ({"ca": "missing"}, "ca", "which cannot be read: No such file or directory"),
        ({"ca": "."}, "ca", "which cannot be read: Is a directory"),
        ({"ca": "empty"}, "ca", "which is empty; it must hold certificates in PEM format"),
        ({"ca": "text"}, "ca", "which is not in PEM format; it must hold certificates in PEM format"),
        ({"ca": "der"}, "ca", "which is in DER format; convert it with openssl x509 -inform der"),
        ({"ca": "cut"}, "ca", "which holds a damaged certificate"),
        ({"ca": "client_key"}, "ca", "which holds a private key; it must hold certificates"),
        ({"certificate": "client_key", "key": "client_certificate"}, "certificate", "which holds a private key"),
        ({"certificate": "client_certificate", "key": "client_certificate"}, "key", "which holds a certificate"),
        ({"certificate": "client_certificate", "key": "other_key"}, "key", "which does not belong to the certificate"),
        ({"certificate": "client_certificate", "key": "cut key"}, "key", "which holds a damaged key"),
        ({"certificate": "client_certificate", "key": "encrypted"}, "key", "which holds an encrypted private key"),
        ({"certificate": "client_certificate", "key": "text"}, "key", "which is not in PEM format; it must hold an"),
    ],
)
def test_a_wrong_tls_file_is_reported_when_the_client_is_created(
    files: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    client_class: type[Any],
    names: dict[str, str],
    setting: str,
    problem: str,
) -> None:
    paths = {argument: files(name) for argument, name in names.items()}
    with pytest.raises(InvalidRequest) as raised:
        client_class("localhost:1", tls=TLS(**paths))
    assert raised.value.field == "tls"
    assert f"TLS({setting}=...) names {paths[setting]!r}, {problem}" in raised.value.reason
    variables = {
        "ca": "POOLSERVICE_CA",
        "certificate": "POOLSERVICE_CLIENT_CERTIFICATE",
        "key": "POOLSERVICE_CLIENT_KEY",
    }
    for argument, path in paths.items():
        monkeypatch.setenv(variables[argument], path)
    with pytest.raises(InvalidRequest) as raised:
        client_class("localhost:1")
    assert f"{variables[setting]} names {paths[setting]!r}, {problem}" in raised.value.reason


@pytest.mark.parametrize("argument", ["ca", "certificate", "key", "server_name"])
def test_a_tls_argument_of_a_wrong_type_is_named(argument: str) -> None:
    arguments: dict[str, Any] = {"certificate": "a", "key": "a"} if argument in ("certificate", "key") else {}
    with pytest.raises(InvalidRequest, match=rf"TLS\({argument}=\.\.\.\) must be .*; got 5"):
        TLS(**{**arguments, argument: 5})


def test_one_of_the_two_variables_of_a_client_certificate_is_not_enough(
    certificates: "Certificates", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLSERVICE_CLIENT_KEY", certificates.client_key)
    with pytest.raises(InvalidRequest, match="CLIENT_KEY is set, and POOLSERVICE_CLIENT_CERTIFICATE is not"):
        PoolClient("localhost:1")


def test_right_files_are_accepted(certificates: "Certificates", tmp_path: Path) -> None:
    ca = Path(certificates.ca).read_text()
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes("Zertifizierungsstellen für den Test\n".encode() + ca.encode() * BUNDLE_CERTIFICATES)
    PoolClient("localhost:1", tls=TLS(bundle, certificates.client_certificate, certificates.client_key)).close()


def test_a_named_pipe_is_left_to_the_connection(tmp_path: Path) -> None:
    pipe = tmp_path / "ca"
    os.mkfifo(pipe)
    # Nobody writes to it, so reading it would wait for ever.
    PoolClient("localhost:1", tls=TLS(pipe)).close()
