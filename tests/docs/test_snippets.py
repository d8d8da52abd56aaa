"""Every command and every Python block of the documents runs as it is written, or is an excerpt of an example."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in (
        "*.md",
        "*/README.md",
        "server/BACKBONES.md",
        "server/OPERATING.md",
        "tests/*/README.md",
        "client/examples/README.md",
    )
    for path in ROOT.glob(pattern)
)

# Commands that cannot run within a test: they run the tests, install packages, need a container engine, or do not end.
# Other tests cover them: tests/cli the demo, tests/server/test_container.py the container, tests/server/test_process.py
# the server and its flags.
NOT_RUN = ("make ", "pytest ", "pip install ", "docker compose ", "poolservice-server", "npm ", "python tests/bench/")
# The end of the paragraph before an excerpt, such as "From [`examples/one_call.py`](examples/one_call.py):".
EXCERPT = re.compile(r"From\s+\[[^\]]*\]\((?:client/)?(examples/\w+\.py)\)[^\[]*:\Z")


class Snippet(NamedTuple):
    """A fenced block of a document.

    Attributes:
        document: the document's path.
        line: the line of the opening fence.
        language: what follows the fence.
        code: the block's lines.
        example: the path of the example that the preceding paragraph names; None if the block stands for itself.
    """

    document: str
    line: int
    language: str
    code: str
    example: str | None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def snippets() -> list[Snippet]:
    """Return the fenced blocks of all documents."""
    found = []
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            before = text[: match.start()]
            excerpt = EXCERPT.search(before.rstrip().rpartition("\n\n")[2])
            found.append(Snippet(document, before.count("\n") + 1, match[1], match[2], excerpt and excerpt[1]))
    return found


PYTHON = [snippet for snippet in snippets() if snippet.language == "python"]
EXCERPTS = [snippet for snippet in PYTHON if snippet.example]
PROGRAMS = [snippet for snippet in PYTHON if not snippet.example]
COMMANDS = [
    (snippet, command)
    for snippet in snippets()
    if snippet.language == "sh"
    for command in snippet.code.replace("\\\n", "").splitlines()
    if command and not command.startswith("#")
]


def test_the_documents_have_snippets() -> None:
    assert {snippet.document for snippet in PROGRAMS} >= {"README.md", "client/README.md"}
    assert {snippet.example for snippet in EXCERPTS} >= {
        "examples/ray_images_to_parquet.py",
        "examples/asgi_service.py",
    }
    assert any("poolservice pool" in command for _, command in COMMANDS)


@pytest.mark.parametrize("snippet", PROGRAMS, ids=str)
def test_a_python_block_runs(snippet: Snippet, readers_folder: Path, readers_environment: dict[str, str]) -> None:
    assert "environ" not in snippet.code, "a reader has not set the variables that a test sets"
    code = snippet.code.replace("localhost:50051", readers_environment["POOLSERVICE_ADDRESS"])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=readers_folder,
        env=readers_environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("snippet", EXCERPTS, ids=str)
def test_an_excerpt_is_verbatim_in_its_example(snippet: Snippet) -> None:
    assert snippet.example
    assert f"\n{snippet.code}" in (ROOT / "client" / snippet.example).read_text()


@pytest.mark.parametrize(("snippet", "command"), COMMANDS, ids=lambda value: str(value)[:60])
def test_a_command_runs(
    snippet: Snippet, command: str, readers_folder: Path, readers_environment: dict[str, str]
) -> None:
    if command.startswith("make "):
        target = command.split()[1]
        assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{snippet}: no {target}"
        return
    if command.startswith(NOT_RUN):
        return
    done = subprocess.run(
        shlex.split(command.replace("localhost:50051", readers_environment["POOLSERVICE_ADDRESS"])),
        cwd=readers_folder,
        env=readers_environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{snippet}: {done.stderr}"
