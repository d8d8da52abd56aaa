"""Caches that are bounded by bytes, and the list of all caches of the process.

Callers choose the keys of these caches, so a bound on the number of entries bounds no memory.
"""

import gc
import sys
from collections.abc import Callable, Hashable
from threading import Lock
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Generic, NamedTuple, ParamSpec, TypeVar

import numpy as np

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MIB = 2**20

#: The bound of each cache in bytes, by the cache's name; the caches of a process take no more than their sum. The
#: first four consist of small objects, which Python's garbage collector visits at each full collection: 300,000 of
#: them, about 30 MiB, stop the event loop for 0.2 s on a busy machine.
MAX_BYTES = {
    "heads": 7 * _MIB // 2,
    "image_plans": 2 * _MIB,
    "backbone_plans": _MIB // 2,
    "kernels": 6 * _MIB,
    "gather_indices": 15 * _MIB // 2,
    "windows": _MIB,
    "windows_2d": _MIB,
    "layouts": _MIB,
    "sorting_networks": _MIB // 2,
}

# An entry of a dictionary: its slot, its hash, and the slots that the dictionaries keep free.
_SLOT_BYTES = 300


class ProcessWide:
    """An object that lives as long as the process and that no caller makes, so no cache counts it."""


# What entries share with the rest of the process, which no cache keeps alive.
_SHARED = (type, ModuleType, BuiltinFunctionType, np.ufunc, np.dtype, ProcessWide)


class CacheSize(NamedTuple):
    """The contents of a cache.

    Attributes:
        name: the cache's name, one of `MAX_BYTES`.
        entries: how many results it holds.
        nbytes: how many bytes they take.
    """

    name: str
    entries: int
    nbytes: int


class Cache(Generic[_T]):
    """The results of a function, by its positional arguments, up to a number of bytes.

    Entries belong to one of two generations. When the entries of the young generation take half of the bytes, they
    become the old generation, and the entries of the previous old generation are forgotten. An entry of the old
    generation that is used becomes young again. So an entry stays while it is used, as in an LRU cache, yet a hit on a
    young entry only reads a dictionary: it needs no lock and moves nothing. Any thread may call it.

    Args:
        name: one of `MAX_BYTES`.
        function: computes a result, never None; a result that takes more than half of the bytes is not kept.
    """

    def __init__(self, name: str, function: Callable[..., _T]) -> None:
        self.name = name
        self.max_bytes = MAX_BYTES[name]
        self._function = function
        self._young: dict[Hashable, _T] = {}
        self._old: dict[Hashable, _T] = {}
        self._young_sizes: dict[Hashable, int] = {}
        self._old_sizes: dict[Hashable, int] = {}
        self._young_bytes = self._old_bytes = 0
        self._lock = Lock()

    def __call__(self, *arguments: Hashable) -> _T:
        """Return the function's result for these arguments."""
        result = self._young.get(arguments)
        return self._find_or_compute(arguments) if result is None else result

    def find(self, *arguments: Hashable) -> _T | None:
        """Return the result for these arguments if it was used lately; None if a call might compute it."""
        return self._young.get(arguments)

    def size(self) -> CacheSize:
        """Return what the cache holds."""
        with self._lock:
            return CacheSize(self.name, len(self._young) + len(self._old), self._young_bytes + self._old_bytes)

    def clear(self) -> None:
        """Forget every entry."""
        with self._lock:
            self._young, self._old, self._young_sizes, self._old_sizes = {}, {}, {}, {}
            self._young_bytes = self._old_bytes = 0

    def _find_or_compute(self, arguments: tuple[Hashable, ...]) -> _T:
        with self._lock:
            if arguments in self._old:
                result = self._old.pop(arguments)
                nbytes = self._old_sizes.pop(arguments)
                self._old_bytes -= nbytes
                self._add(arguments, result, nbytes)
                return result
        # Outside the lock, because a result may take milliseconds. Two threads may then compute the same one.
        result = self._function(*arguments)
        nbytes = size_of((arguments, result)) + _SLOT_BYTES
        with self._lock:
            if arguments not in self._young and arguments not in self._old and nbytes <= self.max_bytes // 2:
                self._add(arguments, result, nbytes)
        return result

    def _add(self, arguments: tuple[Hashable, ...], result: _T, nbytes: int) -> None:
        if self._young_bytes + nbytes > self.max_bytes // 2:
            self._old, self._old_sizes, self._old_bytes = self._young, self._young_sizes, self._young_bytes
            self._young, self._young_sizes, self._young_bytes = {}, {}, 0
        self._young[arguments] = result
        self._young_sizes[arguments] = nbytes
        self._young_bytes += nbytes


_caches: list[Cache[object]] = []


def cached(name: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Return a decorator that caches a function's results, by positional arguments only, and registers the cache."""

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        cache = Cache(name, function)
        _caches.append(cache)  # type: ignore[arg-type]
        return cache  # type: ignore[return-value]

    return decorate


def caches() -> list[CacheSize]:
    """Return the contents of every cache of the process."""
    return [cache.size() for cache in _caches]


def clear_caches() -> None:
    """Forget every entry of every cache."""
    for cache in _caches:
        cache.clear()


def size_of(value: object) -> int:
    """Return the bytes of a value and of all objects that it may keep alive, such as the arrays in a closure."""
    nbytes = 0
    seen: set[int] = set()
    to_visit = [value]
    while to_visit:
        found = to_visit.pop()
        if id(found) in seen or isinstance(found, _SHARED):
            continue
        seen.add(id(found))
        nbytes += sys.getsizeof(found)
        if isinstance(found, FunctionType):
            # Its other referents, such as its globals, belong to its module.
            to_visit.extend(found.__closure__ or ())
        elif isinstance(found, np.ndarray):
            if found.base is not None:
                to_visit.append(found.base)
        else:
            to_visit.extend(gc.get_referents(found))
    return nbytes
