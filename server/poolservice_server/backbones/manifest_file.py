"""Reads `backbone.toml`, and says in one sentence what is wrong with it."""

import json
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from poolservice_server.backbones.manifest import Manifest
from poolservice_server.backbones.manifest_values import RULE
from poolservice_server.foreign_text import quote
from poolservice_server.settings.errors import did_you_mean

# The rules that pydantic checks, by the type of its error.
_RULES = {
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge}",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "model_type": "must be a table",
    "string_type": "must be text in quotes",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entry",
    "string_unicode": "must be text that UTF-8 can encode",
    "tuple_type": "must be a list",
}

_MOST_PROBLEMS = 5
_LONGEST_VALUE = 80


class WrongManifest(Exception):
    """A `backbone.toml` is wrong. The message says what would be right, without the name of the file.

    Attributes:
        name: the value of the key name, if the file could be read that far; else None.
    """

    def __init__(self, message: str, name: object = None) -> None:
        super().__init__(message)
        self.name = name


def parse_manifest(content: bytes) -> Manifest:
    """Return the contents of a `backbone.toml`.

    Raises:
        WrongManifest: the file is not TOML, or breaks a rule of the schema.
    """
    tables = read_toml(content)
    try:
        return Manifest.model_validate(tables)
    except ValidationError as error:
        raise WrongManifest(explain(error), tables.get("name")) from None


def read_toml(content: bytes) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        WrongManifest: the file is not TOML.
    """
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise WrongManifest(f"must be UTF-8 text; line {line} is not") from None
    except tomllib.TOMLDecodeError as error:
        raise WrongManifest(f"must be TOML: {quote(str(error))}") from None
    except (RecursionError, ValueError):
        # Of lists in lists, and of numbers with thousands of digits.
        raise WrongManifest("must be TOML of less depth, and with shorter numbers") from None


def explain(error: ValidationError, table: type[BaseModel] = Manifest) -> str:
    """Return what is wrong with the values of a table, in one sentence that names the keys.

    Args:
        error: the error of `table.model_validate`.
        table: the table.
    """
    problems = [_sentence(problem, table) for problem in error.errors()]
    more = len(problems) - _MOST_PROBLEMS
    return "; ".join(problems[:_MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def _sentence(problem: Any, table: type[BaseModel]) -> str:
    """Return what is wrong with a value, after pydantic's description."""
    kind, place, context = problem["type"], problem["loc"], problem.get("ctx", {})
    key = _key(place)
    if kind == RULE:
        return f"{key}.{context['text']}" if key else str(context["text"])
    if kind == "missing":
        field = _keys(table, place[:-1])[place[-1]]
        return f"{key} is missing: {field.description}"
    if kind == "extra_forbidden":
        keys = _keys(table, place[:-1])
        parent = _key(place[:-1])
        suggestion = did_you_mean(place[-1], keys) or f", which has {', '.join(keys)}: remove it or correct its name"
        return f"{key} is not a key of {f'[{parent}]' if parent else 'this file'}{suggestion}"
    if kind == "literal_error":
        text = f"must be {context['expected']}".replace("'", "")
    elif kind == "value_error":
        text = str(context["error"])
    else:
        text = _RULES[kind].format(**context)
    return f"{key} {text}; got {_shown(problem['input'])}"


def _key(place: Sequence[str | int]) -> str:
    """Return the path of a key as TOML writes it, with the indices of lists."""
    key = ""
    for part in place:
        if isinstance(part, int):
            key += f"[{part}]"
        elif part != "[key]":
            bare = part.isascii() and part.replace("-", "_").isidentifier()
            key += f"{'.' if key else ''}{part if bare else _shown(part)}"
    return key


def _keys(table: type[BaseModel], place: Sequence[str | int]) -> dict[str, Any]:
    """Return the fields of the table at a place of another table, by key."""
    fields = _fields(table)
    for part in place:
        # The name of an output and the index of a file stand for a table of the same type.
        if part in fields:
            for inner in _tables(fields[part].annotation):
                fields = _fields(inner)
    return fields


def _fields(table: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in table.model_fields.items()}


def _tables(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables(argument)


def _shown(value: object) -> str:
    """Return a value as TOML writes it, at most a short line."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        shown = ("[...]" if isinstance(one, list) else _shown(one) for one in value[:_LONGEST_VALUE])
        text = f"[{', '.join(shown)}]"
    else:
        text = json.dumps(value, default=str)
    return quote(text, _LONGEST_VALUE)
