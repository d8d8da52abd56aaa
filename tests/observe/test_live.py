"""Every query and every rule gives data from a real Prometheus that scrapes a real server."""

import shutil
import subprocess
import sys

import pytest
from tests.observe.documents import ROOT


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed (Debian: prometheus)")
def test_every_query_has_data() -> None:
    command = [sys.executable, "-m", "tests.observe.live", "--seconds", "30"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
