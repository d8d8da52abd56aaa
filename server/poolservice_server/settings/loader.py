"""Loads the settings from all their sources and reports everything that is wrong in one sentence."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from poolservice_server.settings.command_line import flags_source
from poolservice_server.settings.environment import variable_of
from poolservice_server.settings.errors import SettingsError, did_you_mean
from poolservice_server.settings.model import Settings
from poolservice_server.settings.read_files import read_settings_file


def load(arguments: Sequence[str]) -> Settings:
    """Load the settings from the command line, the environment and the settings file.

    Args:
        arguments: the command line without the program's name.

    Raises:
        SettingsError: a setting is wrong or unknown, or the settings file cannot be read.
        SystemExit: the command line has --help.
    """
    flags = flags_source(Settings, arguments)
    path = flags().get("config") or os.environ.get(variable_of("config"))
    from_file = read_settings_file(Path(path)) if path else {}
    try:
        return Settings(**from_file, _cli_settings_source=flags)  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(problem) for problem in error.errors())) from None


def _sentence(problem: Any) -> str:
    name = "_".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        suggestion = did_you_mean(name, Settings.model_fields)
        return f"{name} is not a setting{suggestion} (poolservice-server --help lists the settings)"
    rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    if not name:
        return str(rule)
    return f"{name} (--{name.replace('_', '-')}, {variable_of(name)}): {rule}; got {problem['input']!r}"
