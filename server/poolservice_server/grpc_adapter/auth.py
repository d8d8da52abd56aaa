"""Bearer tokens of calls: finds the token in the metadata and names the caller."""

from collections.abc import Iterable

from poolservice_server.error_status import Unauthenticated
from poolservice_server.file_watch import FileWatch
from poolservice_server.settings import Settings, Tokens, read_tokens

_SCHEME = "bearer "


class TokenAuthenticator:
    """The check of a call's bearer token.

    Attributes:
        tokens: the accepted tokens. With several, one can be replaced while callers still use the other. Without any,
            every call is allowed. Another thread may replace this object.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def __bool__(self) -> bool:
        """Return True if calls need a token. This never changes: a token file without tokens is not used."""
        return bool(self.tokens)

    def check(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """Check the metadata of a call, and return the caller's name, or "" if calls need no token.

        Every token may call every method. The service has no method that changes anything, so roles would separate
        nothing but GetServerInfo from pooling.

        Raises:
            Unauthenticated: the metadata has no token or an unknown one.
        """
        tokens = self.tokens
        if not tokens:
            return ""
        for key, value in metadata:
            if key == "authorization" and isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
                owner = tokens.owner(value[len(_SCHEME) :])
                if owner is not None:
                    return f"token:{owner}"
                raise Unauthenticated(
                    "the server does not know the bearer token of this call; ask its operator for a current one"
                )
        raise Unauthenticated(
            "this server requires a token: set POOLSERVICE_TOKEN, pass token= to the Python client, or send the "
            "metadata 'authorization: Bearer TOKEN'"
        )


def token_authenticator(settings: Settings, watch: FileWatch) -> TokenAuthenticator:
    """Return the authenticator for the tokens in `settings.auth_token_file`, which follows changes of the file.

    Raises:
        SettingsError: the file cannot be read or contains no token.
    """
    authenticator = TokenAuthenticator(Tokens())
    path = settings.auth_token_file
    if path is not None:

        def load() -> None:
            authenticator.tokens = read_tokens(path, "--auth-token-file")

        watch.add("tokens", [path], load)
    return authenticator
