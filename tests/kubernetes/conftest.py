"""The objects of each variant."""

from pathlib import Path

import pytest
from tests.kubernetes.kustomize import Object
from tests.kubernetes.variants import VARIANTS, manifests_of


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    """Each variant's name."""
    name: str = request.param
    return name


@pytest.fixture
def manifests(variant: str, tmp_path: Path) -> list[Object]:
    """The objects of each variant."""
    return manifests_of(variant, tmp_path)
