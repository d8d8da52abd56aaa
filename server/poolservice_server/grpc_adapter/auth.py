"""Bearer tokens: reads them from the file that the settings name, and checks the token of each call."""

import hashlib
import hmac
from collections.abc import Iterable

from poolservice_server.error_status import Unauthenticated
from poolservice_server.settings import Settings, SettingsError, read_file

_SCHEME = "Bearer "


class TokenAuthenticator:
    """The check of a call's bearer token.

    Args:
        tokens: the accepted tokens. With several, one can be replaced while callers still use the other. Without
            any, every call is allowed.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    def __bool__(self) -> bool:
        """Return True if calls need a token."""
        return bool(self._tokens)

    def check(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """Return the name of a call's token, from the call's metadata.

        Raises:
            Unauthenticated: the metadata has no token or an unknown one.
        """
        for key, value in metadata:
            if key == "authorization" and isinstance(value, str) and value.startswith(_SCHEME):
                token = value.removeprefix(_SCHEME).encode()
                # Compare with every token, each in constant time, so that the time reveals nothing about a match.
                if sum(hmac.compare_digest(token, accepted) for accepted in self._tokens):
                    return f"token:{hashlib.sha256(token).hexdigest()[:8]}"
                raise Unauthenticated(
                    "the server does not know the bearer token of this call; ask its operator for a current one"
                )
        raise Unauthenticated(
            "this server requires a token: set POOLSERVICE_TOKEN, pass token= to the Python client, or send the "
            "metadata 'authorization: Bearer TOKEN'"
        )


def token_authenticator(settings: Settings) -> TokenAuthenticator:
    """Return the authenticator for the tokens in `settings.auth_token_file`.

    Raises:
        SettingsError: the file cannot be read or contains no token.
    """
    if settings.auth_token_file is None:
        return TokenAuthenticator(())
    text = read_file(settings.auth_token_file, "auth_token_file").decode(errors="replace")
    tokens = [line.strip() for line in text.splitlines() if line.strip()]
    if not tokens:
        raise SettingsError(f"auth_token_file {settings.auth_token_file} contains no token; write one per line")
    return TokenAuthenticator(tokens)
