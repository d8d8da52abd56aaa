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
        SettingsError: the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {path}: {error}") from None
