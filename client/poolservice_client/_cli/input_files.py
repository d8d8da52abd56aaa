"""Which files a command is given: paths, patterns, and lists of them."""

import glob
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from poolservice_client._cli.errors import Usage
from poolservice_client._request import files


def find(arguments: Sequence[str], lists: Sequence[Path]) -> list[str]:
    """The files that are meant, each once, in the order given; those of a pattern in the order of their names.

    Args:
        arguments: paths, and patterns such as photos/**/*.jpg, where ** stands for any number of folders. What exists
            is a path, whatever its name looks like. A path without a file is kept: to read it will say what is wrong.
        lists: files with one path a line; "-" is standard input.

    Raises:
        Usage: a pattern that matches no file, a folder, a URL, or no files at all.
        OSError: a list cannot be read.
    """
    found = [path for argument in arguments for path in _matched(argument)]
    for one in lists:
        found += _coalescers(one)
    if not found:
        raise Usage("no files are given; name some, quote a pattern such as 'photos/**/*.jpg', or give --from-file")
    return list(dict.fromkeys(found))


def readable(path: str) -> str:
    r"""A path as text for people and files; a byte that is no UTF-8 is written as \xff."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _matched(argument: str) -> Iterable[str]:
    if os.path.isdir(argument):
        raise Usage(f"{argument} is a folder; quote a pattern for the files in it: '{Path(argument) / '**' / '*.jpg'}'")
    if files.is_url(argument) and not os.path.exists(argument):
        raise Usage(f"{argument} is a URL, which is not fetched; download it, and give the file")
    if os.path.exists(argument) or not glob.has_magic(argument):
        return [argument]
    found = sorted(path for path in glob.iglob(argument, recursive=True) if not os.path.isdir(path))
    if not found:
        raise Usage(f"no file matches {argument}")
    return found


def _coalescers(path: Path) -> list[str]:
    # As the system encodes names, so that what `find` prints is found again.
    lines = (sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()).splitlines()
    return [os.fsdecode(line) for line in lines if line.strip()]
