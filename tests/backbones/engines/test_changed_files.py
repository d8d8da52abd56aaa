"""A model file that changes between the check of the folder and the load of its engine is not loaded."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.backbones.models import TinyBackbone

from poolservice_server.backbones.backbone import Backbones
from poolservice_server.backbones.engines.loading import load
from poolservice_server.backbones.folder import BackboneFolder
from poolservice_server.backend import Backend
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.settings import SettingsError

Write = Callable[..., tuple[TinyBackbone, BackboneFolder]]


def load_changed(write: Write, *, skip_broken: bool) -> Backbones:
    options: dict[str, Any] = {"threads": 1, "cores": 2, "allow_code_models": False, "skip_broken": skip_broken}
    backbone, folder = write()
    content = (backbone.path / "model.onnx").read_bytes()
    (backbone.path / "model.onnx").write_bytes(content[:-1])
    return load([folder], (), Backend([CpuDevice()]), **options)


def test_a_changed_model_is_refused(write: Write) -> None:
    with pytest.raises(SettingsError, match=r"cannot run: model\.onnx is tampered or truncated"):
        load_changed(write, skip_broken=False)


def test_callers_read_the_reason_without_the_paths_of_the_server(write: Write) -> None:
    backbones = load_changed(write, skip_broken=True)
    assert not backbones.serving
    (broken,) = backbones.broken
    assert broken.name == "tiny"
    assert broken.reason.startswith("model.onnx is tampered or truncated")
