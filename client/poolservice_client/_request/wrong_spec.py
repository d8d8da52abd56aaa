"""Suggestions: what to write instead of an object that was passed as a spec but is not one."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType

from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, PoolSpec
from poolservice.specs.validation import shown

# Class names are those of torch.nn for every operator that torch has.
_LAYERS_BY_NAME: Mapping[str, type[PoolSpec]] = MappingProxyType({layer.__name__: layer for layer in LAYERS.values()})


def describe_wrong_spec(value: object) -> str:
    """Describe `value`, which was passed as a spec but is not one, and suggest a spec if its name is similar."""
    if isinstance(value, str):
        names = {_key(name): name for name in _LAYERS_BY_NAME}
        matches = difflib.get_close_matches(_key(value), names, n=1, cutoff=0.5)
        suggestion = names[matches[0]] if matches else None
        return f"{shown(value)}; did you mean {suggestion}(...)?" if suggestion else shown(value)
    cls = value if isinstance(value, type) else type(value)
    layer = _LAYERS_BY_NAME.get(cls.__name__)
    if layer is None or not (cls is layer or cls.__module__.startswith("torch.nn.")):
        return " ".join(shown(value).split())
    if isinstance(value, type):
        return f"the class {cls.__module__}.{cls.__name__}; write poolservice_client.{cls.__name__}(...)"
    return f"torch.nn's {cls.__name__}; write poolservice_client.{_spec_like(value, layer)}"


def _key(name: str) -> str:
    """Return the key that all forms of a layer's name share: max2d for max_pool2d and MaxPool2d, but not for MAC2d."""
    return re.sub(r"[\s_-]|pool", "", name.lower())


def _spec_like(module: object, layer: type[PoolSpec]) -> str:
    """Return the constructor call of the spec with the parameters of a torch module."""
    parameters = {field.name: getattr(module, field.name) for field in fields(layer) if hasattr(module, field.name)}
    try:
        return repr(layer(**parameters))
    except (InvalidRequest, TypeError):
        # torch checks some parameters only when the module runs, so a module can hold invalid ones.
        return f"{layer.__name__}(...)"
