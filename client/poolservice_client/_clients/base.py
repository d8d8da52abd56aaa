"""The base class of both clients, and the decorator that gives their methods the same docstrings."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from poolservice_client._settings.settings import ConnectionOptions, Settings
from poolservice_client._stats import ClientStats, Counters

F = TypeVar("F", bound=Callable[..., Any])


class BaseClient:
    """The part of a client that does not depend on how it waits."""

    def __init__(
        self, address: str | Sequence[str] | None, timeout: float, max_message_bytes: int, options: ConnectionOptions
    ) -> None:
        known = ConnectionOptions.__annotations__
        for name in options:
            if name not in known:
                similar = difflib.get_close_matches(name, ("address", "timeout", "max_message_bytes", *known), n=1)
                suggestion = f"; did you mean {similar[0]}?" if similar else ""
                raise TypeError(f"{type(self).__name__} has no argument {name!r}{suggestion}")
        self._settings = Settings.of(address, timeout, max_message_bytes, **options)
        self._counters = Counters()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @property
    def address(self) -> str:
        """The address of the server; several are separated by commas."""
        return self._settings.address

    def stats(self) -> ClientStats:
        """Return the client's counters: calls, retries, hedges, connections and coalesced calls."""
        return self._counters.stats()


def documented_as(blocking: Callable[..., Any]) -> Callable[[F], F]:
    """Replace the docstring of an asyncio method by that of the blocking method, with `await` in the examples.

    The docstring in the source remains for editors, which do not run this.
    """

    def document(method: F) -> F:
        method.__doc__ = awaited(blocking.__doc__ or "")
        return method

    return document


def awaited(docstring: str) -> str:
    """Return the docstring of a blocking method with `await` in front of the calls in its examples."""
    return docstring.replace(" client.", " await client.")
