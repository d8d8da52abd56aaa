"""The journal of `poolservice map`: if the run is killed, no saved row is lost, and no wrong row is kept."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and limits the size of files")

HISTORIES = 300


def test_a_run_killed_at_any_byte_is_resumed_with_the_rows_of_an_uninterrupted_one() -> None:
    program = Path(__file__).with_name("journal_kills.py")
    done = subprocess.run(
        [sys.executable, str(program), str(HISTORIES)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    # The limits must have hit, or nothing was tested.
    assert int(done.stdout) > HISTORIES
