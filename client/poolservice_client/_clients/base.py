"""The base class of both clients, and the decorator that gives their methods the same docstrings."""

import difflib
import pickle
import sys
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, TypeVar

from poolservice_client._settings.settings import ConnectionOptions, Settings
from poolservice_client._stats import ClientStats, Counters

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound="type[BaseClient]")

# The attributes that a copy of a client does not take over but creates anew.
_CONNECTED = ("_transport", "_coalescers", "_counters")


class BaseClient:
    """The part of a client that does not depend on how it waits."""

    def __init__(
        self,
        address: str | Sequence[str] | None,
        timeout: float,
        max_message_bytes: int,
        options: ConnectionOptions,
        *,
        coalesce: bool,
        transport: object,
    ) -> None:
        known = ConnectionOptions.__annotations__
        for name in options:
            if name not in known:
                similar = difflib.get_close_matches(name, ("address", "timeout", "max_message_bytes", *known), n=1)
                suggestion = f"; did you mean {similar[0]}?" if similar else ""
                raise TypeError(f"{type(self).__name__} has no argument {name!r}{suggestion}")
        self._settings = Settings.of(address, timeout, max_message_bytes, **options)
        self._coalesce = coalesce
        self._own_transport: Any = transport
        self._open()

    def _open(self) -> None:
        """Create what the client needs for its calls. It connects with the first one."""
        self._counters = Counters()

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings. A client that is pickled or copied has the same ones and opens its own connections."""
        state = {name: value for name, value in self.__dict__.items() if name not in _CONNECTED}
        for option, value in (("interceptors", self._settings.interceptors), ("transport", self._own_transport)):
            if reason := _why_not_picklable(value):
                raise TypeError(
                    f"this {type(self).__name__} cannot be pickled, because its {option} cannot: {reason}; create the "
                    "client in the process that uses it"
                )
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @property
    def address(self) -> str:
        """The address of the server; several are separated by commas."""
        return self._settings.address

    def stats(self) -> ClientStats:
        """Return the client's counters: calls, retries, hedges, connections and coalesced calls."""
        return self._counters.stats()


def _why_not_picklable(value: object) -> str:
    """Return why `value` cannot be pickled; "" if it can, by pickle or by cloudpickle where the program uses it."""
    if not value:
        return ""
    cloudpickle = sys.modules.get("cloudpickle")
    try:
        (pickle if cloudpickle is None else cloudpickle).dumps(value)
    except Exception as error:  # noqa: BLE001 - pickling runs the code of the value, which may raise anything
        return str(error)
    return ""


def with_own_methods(client_class: C) -> C:
    """Put the client's name in the qualified names of its inherited methods, which errors about arguments show."""
    for base in client_class.__bases__:
        if base is not BaseClient:
            for name, method in vars(base).items():
                if isinstance(method, FunctionType):
                    method.__qualname__ = f"{client_class.__name__}.{name}"
                    method.__module__ = client_class.__module__
    return client_class


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
