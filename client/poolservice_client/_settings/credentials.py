"""What a client shows of itself and wants to see of a server: TLS, the bearer token, metadata."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poolservice.errors import InvalidRequest
from poolservice_client._settings.addresses import is_local

CA_VARIABLE = "POOLSERVICE_CA"
CERTIFICATE_VARIABLE = "POOLSERVICE_CLIENT_CERTIFICATE"
KEY_VARIABLE = "POOLSERVICE_CLIENT_KEY"

_KEY = re.compile(r"[0-9a-z_.-]+")
_TEXT = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class TLS:
    """How a connection is encrypted, and who is trusted.

    Args:
        ca: the file, in PEM, of the authorities whose servers are trusted. Default: those that gRPC brings along,
            the web's.
        certificate: this client's own certificate chain, in PEM, for a server that wants one (mutual TLS).
        key: its private key, in PEM.
        server_name: the name in the server's certificate, where it is not the address's host.

    Raises:
        InvalidRequest: a certificate without its key, or a key without its certificate.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequest("takes a certificate and its key together, or neither", field="tls")

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The contents of the files: authorities, key, certificate.

        Raises:
            OSError: one of them cannot be read.
        """
        ca, key, certificate = (
            None if path is None else Path(path).read_bytes() for path in (self.ca, self.key, self.certificate)
        )
        return ca, key, certificate


def tls_of(tls: TLS | bool | None) -> TLS | None:
    """The TLS that a client was given, or else the environment asks for; None for a connection in the clear."""
    if isinstance(tls, TLS):
        return tls
    if tls not in (None, True, False):
        raise InvalidRequest(f"must be a TLS, True or False; got {tls!r}", field="tls")
    if tls is False:
        return None
    ca, certificate, key = (os.environ.get(name) or None for name in (CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE))
    if tls is None and ca is None and certificate is None and key is None:
        return None
    return TLS(ca, certificate, key)


def check_token(token: str | None, addresses: Iterable[str], *, secure: bool) -> None:
    """See that a token is one, and that nobody on the way can read it.

    Raises:
        InvalidRequest: it is none, or it would travel in the clear.
    """
    if token is None:
        return
    if not _TEXT.fullmatch(token) or token != token.strip():
        raise InvalidRequest("must be of printable ASCII characters, without space around them", field="token")
    if not secure and not all(map(is_local, addresses)):
        raise InvalidRequest(
            "is sent over TLS (tls=), to this machine or through a Unix socket only: others could read it on the way. "
            'Where the network itself is encrypted, send metadata=[("authorization", "Bearer ...")] instead',
            field="token",
        )


def metadata_of(metadata: Iterable[Any], token: str | None) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata that every call carries, checked.

    Raises:
        InvalidRequest: gRPC would not send it.
    """
    pairs: list[tuple[Any, Any]] = []
    for pair in metadata:
        try:
            key, value = pair
        except (TypeError, ValueError):
            raise InvalidRequest(f"must be pairs of key and value; got {pair!r}", field="metadata") from None
        if not isinstance(key, str) or not _KEY.fullmatch(key) or key.startswith("grpc-"):
            raise InvalidRequest(
                f"has keys of the characters 0-9 a-z _ . - that do not begin with grpc-; got {key!r}", field="metadata"
            )
        right = isinstance(value, bytes) if key.endswith("-bin") else isinstance(value, str) and _TEXT.fullmatch(value)
        if not right:
            raise InvalidRequest(
                f"has values of printable ASCII, or of bytes where the key ends in -bin; got {value!r} for {key}",
                field="metadata",
            )
        pairs.append((key, value))
    if token is not None:
        pairs.append(("authorization", f"Bearer {token}"))
    return tuple(pairs)
