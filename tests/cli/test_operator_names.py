"""The names of all operators on the command line: unambiguous, found in every form, and suggested for typing errors."""

from collections import defaultdict

import pytest

from poolservice.specs import LAYERS, PoolSpec
from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._cli.operator_names import FAMILIES, NAMES, SEQUENTIAL, SHORT_NAMES, layer_of, overview
from poolservice_client._cli.operator_parser import parse

LAYERS_BY_NAME = {name: layer for name in NAMES if (layer := layer_of(name))}


def _error(text: str) -> str:
    with pytest.raises(UsageError) as error:
        parse([text], {})
    return str(error.value)


def test_each_layer_but_the_sequences_has_a_name_of_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert set(LAYERS_BY_NAME.values()) == {one for one in LAYERS.values() if one.operator != SEQUENTIAL}


def test_all_forms_of_a_name_name_the_same_layer_and_no_other() -> None:
    named: dict[str, set[type[PoolSpec]]] = defaultdict(set)
    for layer in LAYERS.values():
        for form in (layer.__name__, f"{layer.operator}{layer.spatial_dims}d", layer.__name__.lower()):
            assert layer_of(form) is layer, form
            named[form.lower()].add(layer)
    assert all(len(layers) == 1 for layers in named.values())


def test_abbreviations_are_no_names_of_other_operators() -> None:
    assert not set(SHORT_NAMES) & set(NAMES)
    assert [layer_of(name) for name in ("gap2d", "gmp1d")] == [
        LAYERS["global_avg_pool", 2],
        LAYERS["global_max_pool", 1],
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_needs_a_number_unless_it_has_only_one(family: str) -> None:
    dims = FAMILIES[family]
    if len(dims) == 1:
        assert layer_of(family) is layer_of(f"{family}{dims[0]}d")
    else:
        message = _error(family)
        assert message.startswith(f"--op {family} lacks the number of dimensions; write {family}{dims[0]}d")
        assert message.endswith(f" or {family}{dims[-1]}d")


@pytest.mark.parametrize("family", [family for family in FAMILIES if len(family) > 3])
def test_a_name_without_one_of_its_letters_is_suggested(family: str) -> None:
    middle = len(family) // 2 + (family[len(family) // 2] == "_")
    typed = f"{family[:middle]}{family[middle + 1 :]}2d"
    assert layer_of(typed) is None
    assert f"{family}2d" in _error(typed)


@pytest.mark.parametrize("family", [family for family, dims in FAMILIES.items() if len(dims) < 3])
def test_only_layers_that_exist_are_suggested(family: str) -> None:
    suggestions = _error(f"{family}1d").partition("did you mean ")[2].removesuffix("?").split(" or ")
    assert suggestions == [f"{family}{dims}d" for dims in FAMILIES[family]]


def test_the_error_for_an_unknown_name_lists_all_families() -> None:
    message = _error("zzz")
    assert message.startswith("there is no operator 'zzz'; choose one of ")
    assert set(FAMILIES) <= set(message.replace(",", " ").split())


def test_the_help_lists_each_family_with_its_numbers() -> None:
    groups = dict(group.split(": ") for group in overview().removeprefix("Operators ").removesuffix(";").split("; "))
    assert {family: group for group, families in groups.items() for family in families.split(", ")} == {
        family: {3: "in 1d, 2d and 3d", 2: "in 2d and 3d", 1: "in 2d"}[len(dims)] for family, dims in FAMILIES.items()
    }


def test_a_sequence_is_written_with_plus() -> None:
    assert "write a sequence as its layers, joined by +" in _error("sequential2d")
    assert "write a sequence as its layers, joined by +" in _error("Sequential1d:layers=x")
