"""The check of TLS files when a client is created: gRPC would report a wrong one as a failed handshake, much later."""

import os
import ssl
import stat
from pathlib import Path
from typing import NamedTuple, NoReturn

from poolservice.errors import InvalidRequest

_CERTIFICATES = "certificates in PEM format, which begin with -----BEGIN CERTIFICATE-----"
_KEY = "an unencrypted private key in PEM format, which begins with -----BEGIN PRIVATE KEY-----"
_END = "-----END CERTIFICATE-----"
# The check of the 150 public authorities that systems ship would take 50 ms, and their first ones show the format.
_CHECKED_CHARACTERS = 2**14
# DER begins with an ASN.1 sequence of a length that takes two bytes.
_DER = b"\x30\x82"


class TLSFile(NamedTuple):
    """A TLS file and the setting that names it, such as "POOLSERVICE_CA" or "TLS(ca=...)"."""

    setting: str
    path: str | os.PathLike[str] | None


def check_tls_files(ca: TLSFile, certificate: TLSFile, key: TLSFile) -> None:
    """Check that the files are in PEM format and that the key belongs to the certificate.

    Raises:
        InvalidRequest: a file cannot be read, or is not what its setting needs. The message names both.
    """
    # The contents of a named pipe, such as a shell's <(...), can be read only once, by gRPC.
    if ca.path is not None and _is_readable_twice(ca):
        _check_certificates(ca)
    if certificate.path is not None and key.path is not None and _is_readable_twice(certificate, key):
        _check_certificates(certificate)
        _check_key(key)
        _check_pair(certificate, key)


def _is_readable_twice(*files: TLSFile) -> bool:
    for file in files:
        try:
            if stat.S_ISFIFO(os.stat(file.path or "").st_mode):
                return False
        except (OSError, ValueError):
            # Reading it gives the error.
            continue
    return True


def _check_certificates(file: TLSFile) -> None:
    text = _text_of(file, _CERTIFICATES, "openssl x509 -inform der")
    if "-----BEGIN" in text and "CERTIFICATE-----" not in text:
        holds = "a private key" if "PRIVATE KEY-----" in text else "other data"
        _refuse(file, f"holds {holds}", _CERTIFICATES)
    end = text.rfind(_END, 0, _CHECKED_CHARACTERS)
    try:
        _context().load_verify_locations(cadata=text if end < 0 else text[: end + len(_END)])
    except ssl.SSLError:
        problem = "holds a damaged certificate" if "CERTIFICATE-----" in text else "is not in PEM format"
        _refuse(file, problem, _CERTIFICATES)


def _check_key(file: TLSFile) -> None:
    text = _text_of(file, _KEY, "openssl pkey -inform der")
    if "PRIVATE KEY-----" not in text:
        holds = "holds a certificate" if "CERTIFICATE-----" in text else "is not in PEM format"
        _refuse(file, holds, _KEY)
    if "ENCRYPTED" in text:
        _refuse(file, "holds an encrypted private key, which openssl pkey decrypts", _KEY)


def _check_pair(certificate: TLSFile, key: TLSFile) -> None:
    try:
        # Without a password, OpenSSL would ask for one on the terminal.
        _context().load_cert_chain(os.fspath(certificate.path or ""), os.fspath(key.path or ""), password="")
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            _refuse(key, f"does not belong to the certificate in {certificate.path!s}", "the key of that certificate")
        _refuse(key, "holds a damaged key", _KEY)


def _text_of(file: TLSFile, needed: str, converter: str) -> str:
    try:
        data = Path(file.path or "").read_bytes()
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(
            f"{file.setting} names {str(file.path)!r}, which cannot be read: {problem}", field="tls"
        ) from None
    if not data.strip():
        _refuse(file, "is empty", needed)
    if data.startswith(_DER):
        _refuse(file, f"is in DER format; convert it with {converter}", needed)
    # Comments between the blocks may have any encoding.
    return data.decode("ascii", "replace").replace("\N{REPLACEMENT CHARACTER}", "?")


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The check must not be stricter than gRPC, which accepts short keys.
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def _refuse(file: TLSFile, problem: str, needed: str) -> NoReturn:
    raise InvalidRequest(
        f"{file.setting} names {str(file.path)!r}, which {problem}; it must hold {needed}", field="tls"
    )
