"""What a reader of the documents has: a running server, and the folder that client/README.md prepares."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREPARATION = re.compile(r"^## Preparation\n.*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def prepared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the preparation of client/README.md was run, and nothing else."""
    folder = tmp_path_factory.mktemp("prepared")
    preparation = PREPARATION.search((ROOT / "client" / "README.md").read_text())
    assert preparation
    subprocess.run([sys.executable, "-c", preparation[1]], cwd=folder, check=True, timeout=60)
    return folder


@pytest.fixture
def readers_folder(prepared_folder: Path, tmp_path: Path) -> Path:
    """A copy of the prepared folder for one test."""
    shutil.copytree(prepared_folder, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def readers_environment(backbone_address: str) -> dict[str, str]:
    """The environment in which documents are tried.

    The documents assume a server at the default port. Tests cannot use a fixed port, so POOLSERVICE_ADDRESS stands for
    it; no document may read this variable itself.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("POOLSERVICE_")}
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**inherited, "POOLSERVICE_ADDRESS": backbone_address, "PATH": path, "MPLBACKEND": "agg"}
