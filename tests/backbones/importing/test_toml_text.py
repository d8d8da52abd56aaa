"""The TOML that the import writes."""

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from poolservice_server.backbones.importing.toml_text import toml_text

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | _TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(_TEXTS, values, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(_TEXTS, _VALUES, max_size=4))
def test_a_reader_gets_what_was_written(table: dict[str, Any]) -> None:
    assert tomllib.loads(toml_text(table)) == table


def test_values_come_before_tables() -> None:
    table = {"b": {"inner": {"x": 1}, "y": (1.5, 2)}, "a": "text"}
    assert toml_text(table) == 'a = "text"\n\n[b]\ny = [1.5, 2]\n\n[b.inner]\nx = 1\n'
