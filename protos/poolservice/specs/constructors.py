"""Constructors of layers whose errors name the layer and the arguments that it takes."""

import difflib
import functools
import re
from dataclasses import fields
from types import FunctionType
from typing import Any

from poolservice.specs.base import PoolSpec


def explain_errors(layer: type[PoolSpec]) -> None:
    """Give a layer a constructor whose TypeErrors name the layer, and suggest or list its parameters."""
    construct = _named(layer)
    parameters = [field.name for field in fields(layer)]

    @functools.wraps(construct)
    def explained(self: PoolSpec, *arguments: Any, **keywords: Any) -> None:
        try:
            construct(self, *arguments, **keywords)
        except TypeError as error:
            # An error of the arguments themselves is raised by this frame, before the constructor runs.
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise
            raise TypeError(f"{error}; {_advice(str(error), layer.__name__, parameters)}") from None

    setattr(layer, "__init__", explained)  # noqa: B010 - an assignment to __init__ is an error for type checkers


def _named(layer: type[PoolSpec]) -> FunctionType:
    """Return a copy of the layer's constructor with the layer's name, which Python's errors show.

    Most layers inherit their constructor, which has the name of a base class.
    """
    inherited: Any = layer.__init__
    own = FunctionType(
        inherited.__code__, inherited.__globals__, "__init__", inherited.__defaults__, inherited.__closure__
    )
    own.__kwdefaults__, own.__annotations__ = inherited.__kwdefaults__, inherited.__annotations__
    own.__qualname__ = f"{layer.__qualname__}.__init__"
    return own


def _advice(error: str, layer: str, parameters: list[str]) -> str:
    unknown = re.search(r"unexpected keyword argument '(\w+)'", error)
    close = difflib.get_close_matches(unknown[1], parameters, n=1) if unknown else []
    if close:
        return f"did you mean {close[0]}?"
    return f"{layer} takes {', '.join(parameters) or 'no parameters'}"
