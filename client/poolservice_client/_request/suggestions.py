"""What is given where a layer is wanted and is none: what it is, and what to write instead."""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType

from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, PoolSpec
from poolservice.specs.validation import shown

# Every layer by its name, which is torch.nn's where torch has it.
_BY_NAME: Mapping[str, type[PoolSpec]] = MappingProxyType({layer.__name__: layer for layer in LAYERS.values()})


def instead_of(stranger: object) -> str:
    """What was given where a layer is wanted, and, where it can be told, what to write instead."""
    if isinstance(stranger, str):
        close = difflib.get_close_matches(stranger.lower(), [name.lower() for name in _BY_NAME], n=1, cutoff=0.5)
        meant = next((name for name in _BY_NAME if name.lower() in close), None)
        return f"{shown(stranger)}; did you mean {meant}(...)?" if meant else shown(stranger)
    kind = stranger if isinstance(stranger, type) else type(stranger)
    layer = _BY_NAME.get(kind.__name__)
    if layer is None or not (kind is layer or kind.__module__.startswith("torch.nn.")):
        return " ".join(shown(stranger).split())
    if isinstance(stranger, type):
        return f"the class {kind.__module__}.{kind.__name__}; write poolservice_client.{kind.__name__}(...)"
    return f"torch.nn's {kind.__name__}; write poolservice_client.{_alike(stranger, layer)}"


def _alike(module: object, layer: type[PoolSpec]) -> str:
    """The layer with the parameters of torch's module, as it would be written."""
    given = {field.name: getattr(module, field.name) for field in fields(layer) if hasattr(module, field.name)}
    try:
        return repr(layer(**given))
    except (InvalidRequest, TypeError):
        # A module takes what it only refuses when it runs.
        return f"{layer.__name__}(...)"
