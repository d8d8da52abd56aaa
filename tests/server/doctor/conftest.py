"""Fixtures of the doctor's tests: the command within this process, and a machine with files of our own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from poolservice_server.doctor.command import main
from poolservice_server.doctor.machine import Machine


class Report(NamedTuple):
    """What the doctor said."""

    status: int
    problems: list[str]
    warnings: list[str]
    text: str


Doctor = Callable[..., Report]
Plant = Callable[[dict[str, str]], Machine]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Return a function that runs the doctor with flags of the server on a free port and the CPU."""

    def run(*flags: str) -> Report:
        status = main(["--json", "--device", "cpu", "--address", "127.0.0.1:0", *flags])
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        sentences = {
            state: [one["sentence"] for one in report["findings"] if one["state"] == state]
            for state in ("problem", "warning")
        }
        assert len(sentences["problem"]) == report["problems"]
        assert len(sentences["warning"]) == report["warnings"]
        return Report(status, sentences["problem"], sentences["warning"], json.dumps(report))

    return run


@pytest.fixture
def machine(tmp_path: Path) -> Plant:
    """Return a function that returns a machine with these files, by their path."""

    def make(files: dict[str, str]) -> Machine:
        root = tmp_path / "machine"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return Machine(root, environment={})

    return make


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Return a CA."""
    return trustme.CA()
