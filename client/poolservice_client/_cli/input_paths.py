"""Finding a command's input files: from paths, patterns, and lists of paths."""

import glob
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from poolservice_client._cli.exit_errors import UsageError, naming
from poolservice_client._request import files


def find(arguments: Sequence[str], lists: Sequence[Path]) -> list[str]:
    """Return the paths of all input files without duplicates, in the order given; a pattern's files are sorted.

    Args:
        arguments: paths, and patterns such as photos/**/*.jpg, where ** matches any number of folders. The path of an
            existing file is never taken for a pattern. A path without a file is returned: reading it reports the error.
        lists: files with one path per line; "-" is standard input.

    Raises:
        UsageError: a pattern matches no file, an argument is a folder or a URL, a list has NUL characters, or there are
            no files at all.
        OSError: a list cannot be read.
    """
    found = [path for argument in arguments for path in _expand(argument)]
    for list_path in lists:
        found += _read_list(list_path)
    if not found:
        raise UsageError(
            "no files are given; name some, quote a pattern such as 'photos/**/*.jpg', or give --from-file"
        )
    return list(dict.fromkeys(found))


def printable(path: str) -> str:
    r"""Return a path as text for people and files; bytes that are not UTF-8 are written as \xff."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _expand(argument: str) -> Iterable[str]:
    if os.path.isdir(argument):
        pattern = Path(argument) / "**" / "*.jpg"
        raise UsageError(f"{argument} is a folder; quote a pattern for the files in it: '{pattern}'")
    if files.is_url(argument) and not os.path.exists(argument):
        raise UsageError(f"{argument} is a URL, which is not fetched; download it and give the file")
    if os.path.exists(argument) or not glob.has_magic(argument):
        return [argument]
    found = sorted(path for path in glob.iglob(argument, recursive=True) if not os.path.isdir(path))
    if not found:
        raise UsageError(f"no file matches {argument}")
    return found


def _read_list(path: Path) -> list[str]:
    # Decoded as the system encodes file names, so that the output of `find` is understood.
    with naming(path):
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    if b"\0" in data:
        raise UsageError(f"--from-file {path}: the file has NUL characters; write one path per line")
    lines = data.splitlines()
    return [os.fsdecode(line) for line in lines if line.strip()]
