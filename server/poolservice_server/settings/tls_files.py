"""Reads the certificate, key and client CA that the settings name, and says what is wrong with them."""

import ssl
from pathlib import Path
from typing import NamedTuple

from poolservice_server.settings.errors import SettingsError
from poolservice_server.settings.model import Settings
from poolservice_server.settings.read_files import read_file

_CERTIFICATE, _KEY, _CLIENT_CA = "--tls-certificate", "--tls-key", "--tls-client-ca"
_CERTIFICATE_MARK = b"-----BEGIN CERTIFICATE-----"
_KEY_MARK = b"PRIVATE KEY-----"


class TlsFiles(NamedTuple):
    """The content of the TLS files, in PEM.

    Attributes:
        certificate: the server's certificate chain.
        key: its private key.
        client_ca: the CA of the clients' certificates; None without mutual TLS.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None


def tls_paths(settings: Settings) -> list[Path]:
    """Return the TLS files that the settings name."""
    paths = (settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    return [path for path in paths if path is not None]


def read_tls_files(settings: Settings) -> TlsFiles | None:
    """Return the content of the TLS files that the settings name, or None if they name none.

    Raises:
        SettingsError: a file cannot be read or used, or one is missing. The message names it.
    """
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise SettingsError(f"TLS needs both tls_certificate and tls_key ({_CERTIFICATE}, {_KEY})")
    files = TlsFiles(
        read_file(certificate, _CERTIFICATE),
        read_file(key, _KEY),
        None if client_ca is None else read_file(client_ca, _CLIENT_CA),
    )
    _check_certificates(files.certificate, f"{_CERTIFICATE} {certificate}")
    _check_key(files.key, f"{_KEY} {key}")
    _check_pair(certificate, key)
    if files.client_ca is not None:
        _check_certificates(files.client_ca, f"{_CLIENT_CA} {client_ca}")
    if read_file(certificate, _CERTIFICATE) != files.certificate or read_file(key, _KEY) != files.key:
        raise SettingsError(f"{_CERTIFICATE} {certificate} or {_KEY} {key} changed while it was read")
    return files


def _check_certificates(content: bytes, name: str) -> None:
    if _CERTIFICATE_MARK not in content:
        if _KEY_MARK in content:
            raise SettingsError(f"{name} contains a private key and no certificate: are the two files swapped?")
        raise SettingsError(f"{name} contains no certificate in PEM: no line {_CERTIFICATE_MARK.decode()}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=content.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(f"{name} contains a damaged certificate ({_reason(error)})") from None


def _check_key(content: bytes, name: str) -> None:
    if _KEY_MARK not in content:
        if _CERTIFICATE_MARK in content:
            raise SettingsError(f"{name} contains a certificate and no private key: are the two files swapped?")
        raise SettingsError(f"{name} contains no private key in PEM: no line -----BEGIN PRIVATE KEY-----")
    if b"ENCRYPTED" in content:
        raise SettingsError(
            f"{name} is encrypted, and the server has no password for it; decrypt it: openssl pkey -in KEY -out NEW"
        )


def _check_pair(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=b"")
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise SettingsError(
                f"{_KEY} {key} is not the key of {_CERTIFICATE} {certificate}: renew both files together"
            ) from None
        raise SettingsError(
            f"{_CERTIFICATE} {certificate} and {_KEY} {key} cannot be used together ({_reason(error)}): one of them is "
            "damaged"
        ) from None


def _reason(error: Exception) -> str:
    """Return OpenSSL's name of an error, such as "bad base64 decode"."""
    reason = getattr(error, "reason", None) or str(error).partition("] ")[2].partition(" (")[0] or str(error)
    return str(reason).lower().replace("_", " ")
