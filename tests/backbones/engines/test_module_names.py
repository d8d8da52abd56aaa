"""An output may have one name in the ONNX graph and another one in torch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.backbones.models import TinyBackbone

from poolservice_server.backbones.engines.choice import open_engine
from poolservice_server.backbones.engines.core_budget import CoreBudget
from poolservice_server.backbones.engines.network import Network
from poolservice_server.backbones.folder import BackboneFolder, read_folder
from poolservice_server.backend.cpu import CpuDevice


@pytest.mark.parametrize(("engines", "tensor"), [(("onnx", "torch"), "features"), (("torch",), "features.1")])
def test_torch_uses_the_name_of_the_module(
    write: Callable[..., tuple[TinyBackbone, BackboneFolder]],
    images: np.ndarray,
    engines: tuple[str, ...],
    tensor: str,
) -> None:
    backbone, _ = write(engines=engines)
    manifest = backbone.path / "backbone.toml"
    content = manifest.read_text()
    manifest.write_text(content.replace('tensor = "features"', 'tensor = "features"\nmodule = "features.1"'))
    folder = read_folder(backbone.path, allow_code_models=True)
    engine = open_engine(folder, CpuDevice(), threads=1, allow_code_models=True)
    assert engine is not None
    outputs = Network(folder, engine, torch.device("cpu"), CoreBudget(1)).outputs
    assert outputs.tensor_of("features") == outputs.tensor_of("projected") == tensor
    samples = backbone.normalized(images[:1])
    (values,) = engine.run(samples, [tensor])
    np.testing.assert_allclose(values, backbone.numpy_reference(samples)["features"], rtol=1e-4, atol=1e-5)
