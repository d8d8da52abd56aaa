"""Loads the settings from all their sources and reports everything that is wrong in one sentence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from poolservice_server.settings.command_line import flags_source
from poolservice_server.settings.environment import value_of, variable_of
from poolservice_server.settings.errors import SettingsError, did_you_mean
from poolservice_server.settings.model import Settings
from poolservice_server.settings.read_files import read_settings_file

# What would be right, by the type of pydantic's error, where pydantic's own sentence does not say it.
_RULES = {
    "path_type": "must be a path",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be a text",
}

SettingsT = TypeVar("SettingsT", bound=Settings)


def load(arguments: Sequence[str], program: str | None = None, further_flags: Sequence[str] = ()) -> Settings:
    """Load the settings from the command line, the environment and the settings file.

    Args:
        arguments: the command line without the program's name.
        program: the command whose --help an error names; by default the server's.
        further_flags: the command's flags that are not settings, for suggestions.

    Raises:
        SettingsError: a setting is wrong or unknown, or the settings file cannot be read.
        SystemExit: the command line has --help.
    """
    return load_as(Settings, arguments, program, further_flags)


def load_as(
    model: type[SettingsT], arguments: Sequence[str], program: str | None = None, further_flags: Sequence[str] = ()
) -> SettingsT:
    """Load settings that have further fields; see `load`."""
    flags = flags_source(model, arguments, program, further_flags)
    given = flags()
    path = given.get("config") or value_of("config")
    from_file = read_settings_file(Path(path)) if path else {}
    try:
        return model(**from_file, _cli_settings_source=flags)  # type: ignore[call-arg]
    except ValidationError as error:
        overridden = {*given, *(name for name in from_file if value_of(name) is not None)}
        sources = {name: f" in {path}" for name in from_file if name not in overridden}
        raise SettingsError("; ".join(_sentence(problem, sources, model) for problem in error.errors())) from None


def settings_of(values: Mapping[str, Any], source: str) -> Settings:
    """Return the settings with these values and, above them, those of the environment.

    Args:
        values: the values by the names of the settings.
        source: where they come from, for errors.

    Raises:
        SettingsError: a setting is wrong or unknown.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        sources = {name: f" in {source}" for name in values if value_of(name) is None}
        raise SettingsError("; ".join(_sentence(problem, sources, Settings) for problem in error.errors())) from None


def _sentence(problem: Any, sources: Mapping[str, str], model: type[Settings]) -> str:
    """Return what is wrong with a setting.

    Args:
        problem: pydantic's description.
        sources: for each setting that the settings file sets, the words that say so.
        model: the class of the settings.
    """
    name = "_".join(str(part) for part in problem["loc"])
    source = sources.get(name, "")
    if problem["type"] == "extra_forbidden":
        suggestion = did_you_mean(name, model.model_fields)
        return f"{name}{source} is not a setting{suggestion} (poolservice-server --help lists the settings)"
    rule = _RULES.get(problem["type"])
    if rule is None:
        rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    if not name:
        return str(rule)
    return f"{name}{source} (--{name.replace('_', '-')}, {variable_of(name)}): {rule}; got {problem['input']!r}"
