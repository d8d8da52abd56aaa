"""The function of each operator in torch, for any device."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

from poolservice_server.operators import OPERATORS


def _defines(module: ModuleType, name: str) -> bool:
    """Return True if the module defines a function of this name, and does not only import it."""
    found = vars(module).get(name)
    return isinstance(found, FunctionType) and found.__module__ == module.__name__


_MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]

#: By the name of the operator in the contract, which is the function's name, too. `dispatch` applies sequences.
FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        name: next(vars(module)[name] for module in _MODULES if _defines(module, name))
        for name in OPERATORS
        if name != "sequential"
    }
)
