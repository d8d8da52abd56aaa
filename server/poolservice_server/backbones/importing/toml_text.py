"""Writes TOML. The standard library only reads it."""

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(table: Mapping[str, Any]) -> str:
    """Return a table as a TOML document: values first, then a section for each table in it, however deep.

    Values are strings, numbers, booleans, sequences of these, and sequences of tables, which are written inline.
    """
    return "\n\n".join(_sections(table, ())) + "\n"


def _sections(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"[{'.'.join(map(_key, path))}]"] if path else []
    lines += [f"{_key(key)} = {_value(value)}" for key, value in values.items()]
    # The header of a table that has only tables in it may be left out.
    sections = ["\n".join(lines)] if values or not table else []
    for key, value in table.items():
        if isinstance(value, Mapping):
            sections += _sections(value, (*path, key))
    return sections


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(map(_value, value)) + "]"


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but DEL must be escaped in TOML only.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
