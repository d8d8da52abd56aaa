"""The folder of a tiny backbone."""

from pathlib import Path

import pytest
from tests.backbones.models import tiny_backbone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a backbone named tiny, with a head and two projections."""
    return tiny_backbone(tmp_path / "models" / "folder_of_tiny", engines=("onnx", "torch")).path
