"""The process that listens on a port, as far as /proc tells this user."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from poolservice_server.doctor.machine import Machine

_LISTENING = "0A"

# An argument of the processes that a Python program starts with multiprocessing, as the supervisor starts its workers.
_CHILD_MARK = "--multiprocessing-fork"


def port_owner(machine: Machine, port: int) -> str:
    """Return a phrase such as "process 1234 (poolservice-server)"; "another process" if /proc does not tell.

    For a worker, the process is its supervisor, which would start another worker.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(machine, port)}
    for process in (machine.root / "proc").glob("[0-9]*"):
        if sockets.intersection(_open_files(process)):
            number = process.name
            words = _command_line(machine, number)
            if _CHILD_MARK in words and (parent := machine.table(f"proc/{number}/status").get("PPid")):
                number = str(parent)
                words = _command_line(machine, number)
            name = "poolservice-server" if any("poolservice" in word for word in words) else _command(words)
            return f"process {number} ({name})"
    return "another process"


def _open_files(process: Path) -> Iterator[str]:
    # The process may have ended or closed a file meanwhile, or belong to another user.
    with suppress(OSError):
        for link in (process / "fd").iterdir():
            with suppress(OSError):
                yield str(link.readlink())


def _command_line(machine: Machine, number: str) -> list[str]:
    return (machine.text(f"proc/{number}/cmdline") or "").replace("\0", " ").split()


def _command(words: list[str]) -> str:
    """Return the name of a program. Its arguments may have secrets."""
    return words[0].rpartition("/")[2] if words else "unknown"


def _listening_inodes(machine: Machine, port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a port."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        for line in (machine.text(f"proc/net/{name}") or "").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes
