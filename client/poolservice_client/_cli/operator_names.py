"""The names of the operators on the command line.

A name may have any of its usual forms: `max2d`, `max_pool2d` (torch.nn.functional and the operator names
that `poolservice info` lists), `MaxPool2d` (the layer's class). An operator with one number of dimensions needs no
number: `rmac`.
"""

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType

from poolservice.specs import LAYERS, PoolSpec
from poolservice_client._cli.message_text import join_and, join_or

#: The operator that is written as its layers, joined by +.
SEQUENTIAL = "sequential"
_ABBREVIATIONS = {"global_max_pool": "gmp", "global_avg_pool": "gap"}
_DIMENSIONS = (1, 2, 3)
# A second suggestion must be nearly as close to the unknown name as the first.
_RELATIVE_CUTOFF = 0.95


def _family(layer: type[PoolSpec]) -> str:
    return layer.operator.removesuffix("_pool")


def name_of(layer: type[PoolSpec]) -> str:
    """Return the preferred name: "max2d"."""
    return f"{_family(layer)}{layer.spatial_dims}d"


def _key(text: str) -> str:
    """Return the key that all forms of an operator's name share: "max2d" for max_pool2d and MaxPool2d."""
    return re.sub(r"[\s_-]|pool", "", text.lower())


_NAMED = [layer for layer in LAYERS.values() if layer.operator != SEQUENTIAL]

#: The preferred names: "max2d", "global_avg2d", ...
NAMES: tuple[str, ...] = tuple(map(name_of, _NAMED))
#: The abbreviations: "gap2d", "gmp2d", ...
SHORT_NAMES: tuple[str, ...] = tuple(
    f"{_ABBREVIATIONS[layer.operator]}{layer.spatial_dims}d" for layer in _NAMED if layer.operator in _ABBREVIATIONS
)
#: The names without the number of dimensions, "max", "global_avg", and the possible numbers.
FAMILIES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        _family(layer): tuple(dims for dims in _DIMENSIONS if (layer.operator, dims) in LAYERS)
        for layer in sorted(_NAMED, key=_family)
    }
)

_LAYERS: Mapping[str, type[PoolSpec]] = MappingProxyType(
    {
        _key(f"{family}{layer.spatial_dims}d"): layer
        for layer in LAYERS.values()
        for family in (_family(layer), _ABBREVIATIONS.get(layer.operator))
        if family
    }
    | {_key(_family(layer)): layer for layer in _NAMED if len(FAMILIES[_family(layer)]) == 1}
)
_FAMILIES_BY_KEY: Mapping[str, str] = MappingProxyType(
    {_key(family): family for family in (*FAMILIES, *_ABBREVIATIONS.values())}
)


def layer_of(word: str) -> type[PoolSpec] | None:
    """Return the layer that `word` names; None if there is none."""
    return _LAYERS.get(_key(word))


def overview() -> str:
    """Return the families by their numbers of dimensions, as a text for `--help`."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for family, dims in FAMILIES.items():
        groups.setdefault(dims, []).append(family)
    parts = [
        f"in {join_and([f'{n}d' for n in dims])}: {', '.join(families)}"
        for dims, families in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]
    return f"Operators {'; '.join(parts)};"


def unknown_operator(word: str) -> str:
    """Return the message for an unknown name; its suggestions keep the number of dimensions that the name has."""
    key = _key(word)
    match = re.fullmatch(r"(.*?)(\d*)d?", key)
    # The names mixed and s3 end in a d and in a digit.
    family, dims = match.groups() if match and key not in _FAMILIES_BY_KEY else (key, "")
    close = [family] if family in _FAMILIES_BY_KEY else _close_families(family)
    if not close:
        return (
            f"there is no operator {word!r}; choose one of {', '.join(FAMILIES)}, with the number of dimensions "
            "behind, such as max2d"
        )
    suggestions = join_or([name for key in close for name in _names_in(_FAMILIES_BY_KEY[key], dims)])
    if family in close and not dims:
        return f"--op {word} lacks the number of dimensions; write {suggestions}"
    return f"there is no operator {word!r}; did you mean {suggestions}?"


def _close_families(family: str) -> list[str]:
    close = difflib.get_close_matches(family, _FAMILIES_BY_KEY, n=2, cutoff=0.6)
    ratios = [difflib.SequenceMatcher(None, key, family).ratio() for key in close]
    return [key for key, ratio in zip(close, ratios, strict=True) if ratio >= _RELATIVE_CUTOFF * ratios[0]]


def _names_in(family: str, dims: str) -> list[str]:
    """Return the names of a family with this number of dimensions; with all numbers if it has none with this one."""
    full_name = next((operator for operator, short in _ABBREVIATIONS.items() if short == family), family)
    possible = FAMILIES[full_name.removesuffix("_pool")]
    return [f"{family}{n}d" for n in possible if str(n) == dims] or [f"{family}{n}d" for n in possible]
