"""Who may call, and over what: bearer tokens and TLS, read from the files that the settings name."""

import hmac
from collections.abc import Iterable
from pathlib import Path

import grpc

from poolservice_server.errors import Unauthenticated
from poolservice_server.settings import Settings, SettingsError

_SCHEME = "Bearer "


class TokenAuthenticator:
    """Lets in who brings one of the tokens; everybody where there are none.

    Args:
        tokens: the tokens; several, so that one can be replaced while callers still bring the other.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    def __bool__(self) -> bool:
        """Whether anybody is turned away."""
        return bool(self._tokens)

    def check(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Let a call pass, or not.

        Raises:
            Unauthenticated: it brings no token, or another.
        """
        for key, value in metadata:
            if key == "authorization" and isinstance(value, str) and value.startswith(_SCHEME):
                given = value.removeprefix(_SCHEME).encode()
                # Every token is compared, in constant time, so that the time tells nothing.
                if sum(hmac.compare_digest(given, token) for token in self._tokens):
                    return
                raise Unauthenticated("the bearer token of this call is none that this server knows")
        raise Unauthenticated("this server wants a token: send the metadata 'authorization: Bearer TOKEN'")


def access(settings: Settings) -> TokenAuthenticator:
    """The access that the settings grant.

    Raises:
        SettingsError: the file of tokens cannot be read or has none.
    """
    if settings.auth_token_file is None:
        return TokenAuthenticator(())
    text = _read(settings.auth_token_file, "auth_token_file").decode(errors="replace")
    tokens = [line.strip() for line in text.splitlines() if line.strip()]
    if not tokens:
        raise SettingsError(f"auth_token_file {settings.auth_token_file} has no token; write one a line")
    return TokenAuthenticator(tokens)


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """The server's side of TLS, mutual where there is a CA for clients; None where the settings ask for none.

    Raises:
        SettingsError: a file cannot be read, or the certificate and its key are not given together.
    """
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise SettingsError("TLS takes both tls_certificate and tls_key (--tls-certificate, --tls-key)")
    return grpc.ssl_server_credentials(
        [(_read(key, "tls_key"), _read(certificate, "tls_certificate"))],
        root_certificates=None if client_ca is None else _read(client_ca, "tls_client_ca"),
        require_client_auth=client_ca is not None,
    )


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {setting} {path}: {error.strerror}") from None
