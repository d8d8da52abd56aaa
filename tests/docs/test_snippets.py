"""Every command and snippet of the documents is run, as a reader would run it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("README.md"), *ROOT.glob("*/README.md")))

# What cannot run inside a test run: it is this run, installs into it, needs an engine, or never ends. What they stand
# for is checked elsewhere: the demo by tests/cli, the container by tests/server/test_container.py, the server and its
# flags by tests/server/test_process.py.
ELSEWHERE = ("make ", "pytest ", "pip install ", "docker compose ", "poolservice-server", "npm ", "python tests/bench/")


class Snippet(NamedTuple):
    document: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def snippets() -> list[Snippet]:
    found = []
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        found += [
            Snippet(document, text[: match.start()].count("\n") + 1, match[1], match[2])
            for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        ]
    return found


PYTHON = [snippet for snippet in snippets() if snippet.language == "python"]
SHELL = [
    (snippet, command)
    for snippet in snippets()
    if snippet.language == "sh"
    for command in snippet.code.replace("\\\n", "").splitlines()
    if command and not command.startswith("#")
]


@pytest.fixture
def readers_folder(tmp_path: Path, photograph: Path) -> Path:
    """Where a reader tries the snippets: a folder with a photograph in it, and a few more."""
    shutil.copy(photograph, tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        shutil.copy(photograph, tmp_path / "photos" / f"{number}.jpg")
    return tmp_path


def environment(server_address: str) -> dict[str, str]:
    beside_python = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "POOLSERVICE_ADDRESS": server_address, "PATH": beside_python, "MPLBACKEND": "agg"}


def test_the_documents_have_snippets() -> None:
    assert {snippet.document for snippet in PYTHON} >= {"README.md", "client/README.md"}
    assert any("poolservice pool" in command for _, command in SHELL)


@pytest.mark.parametrize("snippet", PYTHON, ids=str)
def test_a_python_snippet_runs(snippet: Snippet, server_address: str, readers_folder: Path) -> None:
    code = snippet.code.replace("localhost:50051", server_address)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=readers_folder,
        env=environment(server_address),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("snippet", "command"), SHELL, ids=lambda value: str(value)[:60])
def test_a_command_runs(snippet: Snippet, command: str, server_address: str, readers_folder: Path) -> None:
    if command.startswith("make "):
        target = command.split()[1]
        assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{snippet}: no {target}"
        return
    if command.startswith(ELSEWHERE):
        return
    done = subprocess.run(
        shlex.split(command.replace("localhost:50051", server_address)),
        cwd=readers_folder,
        env=environment(server_address),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{snippet}: {done.stderr}"
