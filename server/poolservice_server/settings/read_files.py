"""Reads the files that settings name."""

import tomllib
from pathlib import Path
from typing import Any

from poolservice_server.settings.errors import SettingsError


def read_file(path: Path, setting: str) -> bytes:
    """Return the bytes of the file that `setting` names.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {setting} {path}: {error.strerror}") from None


def read_settings_file(path: Path) -> dict[str, Any]:
    """Return the keys and values of a settings file in TOML.

    Raises:
        SettingsError: the file cannot be read or is not TOML. The message names the file.
    """
    try:
        return tomllib.loads(read_file(path, "the settings file").decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise SettingsError(f"the settings file {path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from None
