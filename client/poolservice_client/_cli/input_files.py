"""Select the files that a run of `poolservice map` has to pool, and those whose rows from an earlier run it keeps."""

import os
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from poolservice_client._cli.exit_errors import UsageError

#: A file's size in bytes and its modification time in nanoseconds, which show if it has changed. Empty for a pipe or a
#: device, whose content cannot be compared; None if there is no such file.
Stamp: TypeAlias = tuple[int, ...] | None


class Entry(NamedTuple):
    """The outcome of one file.

    Attributes:
        stamp: the file's stamp from just before it was read.
        row: the index of its row; None if it failed.
        reason: why it failed; empty if it did not.
    """

    stamp: Stamp
    row: int | None
    reason: str


class WorkList(NamedTuple):
    """The files of a run.

    Attributes:
        files: all of them, in the order of the results.
        pending: those to be pooled.
        changed: those of `pending` that an earlier run finished, but whose content has changed since.
        vanished: files that no longer exist but have a row, which is kept.
    """

    files: list[str]
    pending: list[str]
    changed: list[str]
    vanished: list[str]


def stamp_of(path: str) -> Stamp:
    """Return the stamp of the file at `path`."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else ()


def work_list(
    earlier: Sequence[str], entries: Mapping[str, Entry], current: Sequence[str], *, update: bool, job: str
) -> WorkList:
    """Compare the files that were given now with those of an earlier run.

    Args:
        earlier: the files of the earlier run, in order.
        entries: the outcome of each file that it finished, by path.
        current: the files given now, in order.
        update: whether the files given now replace those of the earlier run. Otherwise they must be the same, except
            for files that no longer exist.
        job: the name of the earlier run in messages.

    Raises:
        UsageError: the files differ, and `update` is False.
    """
    files = list(current) if update else _same_files(earlier, current, job)
    pending, changed, vanished = [], [], []
    for path in files:
        entry = entries.get(path)
        if entry is None:
            pending.append(path)
            continue
        stamp = stamp_of(path)
        if stamp is None and entry.row is not None and not update:
            vanished.append(path)
        elif stamp != entry.stamp or stamp == ():
            pending.append(path)
            changed.append(path)
    return WorkList(files, pending, changed, vanished)


def _same_files(earlier: Sequence[str], current: Sequence[str], job: str) -> list[str]:
    """Return the files of the earlier run, in the order in which they are given now."""
    known, given = frozenset(earlier), frozenset(current)
    added = [path for path in current if path not in known]
    missing = [path for path in earlier if path not in given]
    left_out = [path for path in missing if os.path.lexists(path)]
    for paths, difference, advice in (
        (added, "is not among the files of", "give --update to pool new files too"),
        (left_out, "is not given now, but belongs to", "give it too, or --update to leave it out"),
    ):
        if paths:
            more = f" (the same applies to {len(paths) - 1:,} more)" if len(paths) > 1 else ""
            raise UsageError(f"{paths[0]} {difference} the run in {job}{more}; {advice}, or --restart to start over")
    if [path for path in earlier if path in given] == list(current):
        return list(earlier)
    return [*current, *missing]
