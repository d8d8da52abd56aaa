"""Callers: who makes a call, by its token, its client certificate or its connection."""

from typing import Any

import grpc.aio

from poolservice_server.grpc_adapter.auth import TokenAuthenticator

_Context = grpc.aio.ServicerContext[Any, Any]


class CallerNames:
    """The names of callers, which quotas and logs use.

    Args:
        authenticator: checks and names the bearer tokens.
        client_certificates: True if clients have certificates (mutual TLS).
    """

    def __init__(self, authenticator: TokenAuthenticator, *, client_certificates: bool) -> None:
        self._authenticator = authenticator
        self._requires_token = bool(authenticator)
        self._client_certificates = client_certificates

    def caller_of(self, context: _Context) -> str:
        """Return the name of a call's caller.

        It is the name of the call's token; without tokens, the identity of the client certificate; without either, the
        address of the connection.

        Raises:
            Unauthenticated: the call has no valid token, and the server requires one.
        """
        if self._requires_token:
            return self._authenticator.check(context.invocation_metadata() or ())
        if self._client_certificates and (identities := context.peer_identities()):
            return f"certificate:{next(iter(identities)).decode(errors='backslashreplace')}"
        return context.peer()
