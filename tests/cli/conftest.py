"""Fixtures that run the `poolservice` command as a process, or its entry point in this process."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from poolservice_client.__main__ import main

#: Runs the command in the test's own folder and returns its exit status, stdout and stderr.
Command = Callable[..., "subprocess.CompletedProcess[str]"]

SECONDS = 60.0


@pytest.fixture(autouse=True)
def no_inherited_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings from the environment of the tests; their processes inherit the rest."""
    for name in list(os.environ):
        if name.startswith("POOLSERVICE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def offline(tmp_path: Path) -> Command:
    """Run the command as a process that knows no server. Keywords set environment variables; None unsets one."""

    def run(*arguments: object, stdin: bytes = b"", **variables: str | None) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "COLUMNS": "200", "PYTHONWARNINGS": "error", **variables}
        done = subprocess.run(
            [sys.executable, "-m", "poolservice_client", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env={name: value for name, value in environment.items() if value is not None},
            timeout=SECONDS,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def command(offline: Command, server_address: str) -> Command:
    """Run the command as a process with the shared server's address in its environment."""

    def run(*arguments: object, **keywords: object) -> "subprocess.CompletedProcess[str]":
        return offline(*arguments, **{"POOLSERVICE_ADDRESS": server_address, **keywords})

    return run


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Five images of different sizes in the folder of the test, as paths from there, for commands with a backbone."""
    random = np.random.default_rng(0)
    (tmp_path / "x").mkdir()
    paths = []
    for number in range(5):
        path = Path("x") / f"{number}.png"
        pixels = random.integers(0, 256, (40 + 7 * number, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / path)
        paths.append(str(path))
    return paths


@pytest.fixture
def entry_point(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run the entry point in this process: long tables of errors would be slow with a process each."""

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        words = ["poolservice", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as exited:
            main()
        status = exited.value.code
        assert isinstance(status, int)
        stdout, stderr = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, stdout, stderr)

    return run


@pytest.fixture
def unused_address() -> Iterator[str]:
    """An address where no server listens while the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"
