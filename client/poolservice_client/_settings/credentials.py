"""Credentials: TLS files, the bearer token, and the metadata that is sent with every call."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poolservice.errors import InvalidRequest
from poolservice_client._settings.addresses import is_local
from poolservice_client._settings.tls_files import TLSFile, check_tls_files

CA_VARIABLE = "POOLSERVICE_CA"
CERTIFICATE_VARIABLE = "POOLSERVICE_CLIENT_CERTIFICATE"
KEY_VARIABLE = "POOLSERVICE_CLIENT_KEY"

_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_PRINTABLE_ASCII = re.compile(r"[\x20-\x7e]*")

#: A server rejects a growing share of the calls whose headers are above 8 KiB, and all of them above 16 KiB. gRPC's own
#: headers take up to 1 KiB of that. HTTP/2 counts 32 bytes for each header besides its key and value.
MAX_METADATA_BYTES = 7 * 1024
_HEADER_OVERHEAD = 32


@dataclass(frozen=True, slots=True)
class TLS:
    """The TLS files of a client, all in PEM format.

    The client checks them when it is created, and reads them for each new connection.

    Args:
        ca: path of the certificate authorities that the client trusts. Default: the public authorities that gRPC
            ships.
        certificate: path of the client's certificate chain, for servers that require one (mutual TLS).
        key: path of the private key of `certificate`.
        server_name: the name in the server's certificate, if it differs from the host in the address.

    Raises:
        InvalidRequest: only one of `certificate` and `key` is given, or an argument has a wrong type.

    Example:
        >>> client = PoolClient("pool.example.org:443", tls=TLS(ca="ca.pem"))
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequest("takes a certificate and its key together, or neither", field="tls")
        for name in ("ca", "certificate", "key"):
            path = getattr(self, name)
            if not isinstance(path, str | os.PathLike | None):
                raise InvalidRequest(f"TLS({name}=...) must be the path of a PEM file; got {path!r}", field="tls")
        if not isinstance(self.server_name, str | None):
            raise InvalidRequest(
                f"TLS(server_name=...) must be the name in the server's certificate; got {self.server_name!r}",
                field="tls",
            )

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return the contents of the files in gRPC's order: authorities, key, certificate.

        Raises:
            OSError: a file cannot be read.
        """
        ca, key, certificate = (
            None if path is None else Path(path).read_bytes() for path in (self.ca, self.key, self.certificate)
        )
        return ca, key, certificate


def resolve_tls(tls: TLS | bool | None) -> TLS | None:
    """Return the TLS settings from the argument or else the environment; None for an unencrypted connection.

    Raises:
        InvalidRequest: the argument has a wrong type, or one of the files is not what its setting needs.
    """
    if isinstance(tls, TLS):
        _check_files(tls, "TLS(ca=...)", "TLS(certificate=...)", "TLS(key=...)")
        return tls
    if tls not in (None, True, False):
        raise InvalidRequest(f"must be a TLS, True or False; got {tls!r}", field="tls")
    if tls is False:
        return None
    ca, certificate, key = (os.environ.get(name) or None for name in (CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE))
    if tls is None and ca is None and certificate is None and key is None:
        return None
    if (certificate is None) != (key is None):
        given, missing = (
            (KEY_VARIABLE, CERTIFICATE_VARIABLE) if certificate is None else (CERTIFICATE_VARIABLE, KEY_VARIABLE)
        )
        raise InvalidRequest(
            f"takes a certificate and its key together; {given} is set, and {missing} is not", field="tls"
        )
    from_environment = TLS(ca, certificate, key)
    _check_files(from_environment, CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE)
    return from_environment


def _check_files(tls: TLS, ca: str, certificate: str, key: str) -> None:
    """Check the files; `ca`, `certificate` and `key` are the settings that name them."""
    check_tls_files(TLSFile(ca, tls.ca), TLSFile(certificate, tls.certificate), TLSFile(key, tls.key))


def check_token(token: str | None, addresses: Iterable[str], *, is_encrypted: bool) -> None:
    """Check that the token is well-formed and that nobody on the network could read it.

    Raises:
        InvalidRequest: the token is malformed, or it would be sent unencrypted to another machine.
    """
    if token is None:
        return
    if not isinstance(token, str):
        # The value is not shown, because it may be the token in another type.
        raise InvalidRequest(f"must be a str; got a value of type {type(token).__name__}", field="token")
    if not _PRINTABLE_ASCII.fullmatch(token) or token != token.strip():
        raise InvalidRequest("must be printable ASCII characters, without surrounding spaces", field="token")
    if not is_encrypted and not all(map(is_local, addresses)):
        raise InvalidRequest(
            "is sent over TLS (tls=), to this machine or through a Unix socket only: others on the network could read "
            'it. Where the network itself is encrypted, send metadata=[("authorization", "Bearer ...")] instead',
            field="token",
        )


def build_metadata(metadata: Iterable[Any], token: str | None) -> tuple[tuple[str, str | bytes], ...]:
    """Return the metadata that is sent with every call: the caller's pairs, and the token as a bearer token.

    Raises:
        InvalidRequest: gRPC would not send a pair, or all pairs together are larger than a server accepts.
    """
    if isinstance(metadata, str | bytes | Mapping) or not isinstance(metadata, Iterable):
        raise InvalidRequest(
            f"must be a list of pairs of key and value; got a value of type {type(metadata).__name__}", field="metadata"
        )
    pairs: list[tuple[Any, Any]] = []
    for pair in metadata:
        try:
            key, value = pair
        except (TypeError, ValueError):
            raise InvalidRequest(f"must be pairs of key and value; got {pair!r}", field="metadata") from None
        if not isinstance(key, str) or not _METADATA_KEY.fullmatch(key) or key.startswith("grpc-"):
            raise InvalidRequest(
                f"must have keys of the characters 0-9 a-z _ . - that do not begin with grpc-; got {key!r}",
                field="metadata",
            )
        is_valid = (
            isinstance(value, bytes)
            if key.endswith("-bin")
            else isinstance(value, str) and _PRINTABLE_ASCII.fullmatch(value)
        )
        if not is_valid:
            raise InvalidRequest(
                f"must have values of printable ASCII, or bytes if the key ends in -bin; got {value!r} for {key}",
                field="metadata",
            )
        pairs.append((key, value))
    if token is not None:
        pairs.append(("authorization", f"Bearer {token}"))
    if (size := header_bytes(pairs)) > MAX_METADATA_BYTES:
        raise InvalidRequest(
            f"takes {size} bytes, including the token, and the limit is {MAX_METADATA_BYTES}: a server accepts 8 KiB "
            "of headers per call, including gRPC's own; send less",
            field="metadata",
        )
    return tuple(pairs)


def header_bytes(metadata: Iterable[tuple[str, str | bytes]]) -> int:
    """Return how many bytes pairs of metadata take, as HTTP/2 counts them."""
    # gRPC sends the bytes of a -bin key in base64.
    return sum(
        len(key) + (len(value) * 4 // 3 if isinstance(value, bytes) else len(value)) + _HEADER_OVERHEAD
        for key, value in metadata
    )
