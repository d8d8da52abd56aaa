"""Completion in bash: installed as a user installs it, and called as bash calls it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

# typer detects the shell from the parent process; `exit` keeps bash from replacing itself by the command.
INSTALL = "poolservice --install-completion; exit $?"
COMPLETE = """
source ~/.bashrc
COMP_WORDS=(poolservice {words})
COMP_CWORD={index}
_poolservice_completion poolservice
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def bash(script: str, home: Path) -> str:
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder in which the completion is installed."""
    folder = tmp_path_factory.mktemp("home")
    stdout = bash(INSTALL, folder)
    assert "bash completion installed" in stdout
    assert "poolservice" in (folder / ".bashrc").read_text()
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ma"], {"map"}),
        ([""], {"pool", "map", "embed", "explain", "gallery", "bench", "info", "health"}),
        (["map", "x.jpg", "--fail"], {"--failures"}),
        (["map", "x.jpg", "--op", "adaptive_m"], {f"adaptive_max{dims}d" for dims in (1, 2, 3)}),
        (["bench", "--op", "gap"], {f"gap{dims}d" for dims in (1, 2, 3)}),
        (["pool", "--color-mode", "RGB"], {"RGB", "RGBA"}),
    ],
    # A set has another order in each process, and two processes share the tests.
    ids=lambda words: " ".join(words if isinstance(words, list) else sorted(words)),
)
def test_bash_completes(home: Path, words: list[str], expected: set[str]) -> None:
    quoted = " ".join(f"'{word}'" for word in words)
    stdout = bash(COMPLETE.format(words=quoted, index=len(words)), home)
    assert set(stdout.split()) == expected


def test_the_completion_can_be_shown(home: Path) -> None:
    script = bash("poolservice --show-completion; exit $?", home)
    assert "_poolservice_completion()" in script
    assert "complete -o default -F _poolservice_completion poolservice" in script
