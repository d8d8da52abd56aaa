"""The `poolservice` command as a process, as a user's shell runs it."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from poolservice_client.__main__ import main

#: Runs the command in a folder of the test's own, against the shared server unless told otherwise.
Command = Callable[..., "subprocess.CompletedProcess[str]"]

SECONDS = 60.0


@pytest.fixture
def offline(tmp_path: Path) -> Command:
    """The command, for what it must know without any server."""

    def run(*arguments: object, stdin: bytes = b"", **environment: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", "poolservice_client", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200", "PYTHONWARNINGS": "error", **environment},
            timeout=SECONDS,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
        )

    return run


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """The command's entry point, called in this process: for tables of mistakes, where a process each is slow."""

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        words = ["poolservice", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main()
        status = ended.value.code
        assert isinstance(status, int)
        printed, said = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, printed, said)

    return run


@pytest.fixture
def command(offline: Command, server_address: str) -> Command:
    """The command, with the shared server's address in its environment."""

    def run(*arguments: object, **keywords: object) -> "subprocess.CompletedProcess[str]":
        return offline(*arguments, **{"POOLSERVICE_ADDRESS": server_address, **keywords})

    return run


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where no server listens, and none will while the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"
