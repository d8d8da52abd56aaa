"""Writes the settings that were found to a file for `poolservice-server --config`."""

import json
import os
import tempfile
from pathlib import Path

from poolservice_server.settings import Settings
from poolservice_server.tune.tuned_server import Changes


class CannotWrite(Exception):
    """The file cannot be written. The message is one sentence."""


def check_target(path: Path, *, force: bool) -> None:
    """Check, before anything is measured, that the file may be written.

    Raises:
        CannotWrite: the file exists, or its folder does not.
    """
    if path.is_dir():
        raise CannotWrite(f"{path} is a folder; name a file (--write)")
    if path.exists() and not force:
        raise CannotWrite(f"{path} exists; add --force to overwrite it, or write another file (--write)")
    if not path.parent.is_dir():
        raise CannotWrite(f"there is no folder {path.parent} (--write)")


def write_settings(path: Path, settings: Settings, changes: Changes, comment: str) -> None:
    """Write the user's settings with the changes, all at once: another program never reads half a file.

    Args:
        path: the file.
        settings: the user's settings. Those that have been set are written, wherever they come from.
        changes: the settings that were found better.
        comment: the first line.

    Raises:
        CannotWrite: the file cannot be written.
    """
    values = {name: getattr(settings, name) for name in sorted(settings.model_fields_set - {"config"})}
    lines = [f"# {comment}"]
    lines += [f"{name} = {_toml(value)}" for name, value in {**values, **changes}.items() if value is not None]
    unfinished = None
    try:
        descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).chmod(0o644)
        Path(unfinished).replace(path)
        unfinished = None
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror}") from None
    finally:
        if unfinished is not None:
            Path(unfinished).unlink(missing_ok=True)


def _toml(value: object) -> str:
    """Return a value as TOML writes it. The text of JSON is text of TOML, too."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value)
    return json.dumps(str(value))
