"""Networks in torch: architectures with weights, and programs."""

import io
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from structlog.testing import capture_logs
from tests.backbones.models import TinyBackbone, tiny_network
from torch import nn

from poolservice_server.backbones.engines.engine import EngineError
from poolservice_server.backbones.engines.program_engine import load_program
from poolservice_server.backbones.engines.torch_engine import TorchEngine, load_torch
from poolservice_server.backbones.folder import BackboneFolder
from poolservice_server.backbones.manifest import Torch

Write = Callable[..., tuple[TinyBackbone, BackboneFolder]]

CPU = torch.device("cpu")
TENSORS = ["features", "embedding", "channels_last", "tokens"]


def table(architecture: str = "tests.backbones.models:tiny_network", **arguments: Any) -> Torch:
    return Torch(file="weights.safetensors", sha256="0" * 64, architecture=architecture, arguments=arguments)


def load_tiny(state: Mapping[str, torch.Tensor] | None = None) -> TorchEngine:
    weights = save(dict(tiny_network(3).state_dict() if state is None else state))
    return load_torch(table(channels=3), weights, CPU, allow_code_models=True)


def test_each_module_gives_the_same_as_the_network_in_numpy(write: Write, images: np.ndarray) -> None:
    backbone, folder = write(engines=("torch",))
    assert folder.manifest.torch is not None
    engine = load_torch(folder.manifest.torch, folder.read(folder.manifest.torch), CPU, allow_code_models=True)
    samples = backbone.normalized(images)
    expected = backbone.numpy_reference(samples)
    for name, values in zip(TENSORS, engine.run(samples, TENSORS), strict=True):
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5)
    (final,) = engine.run(samples, [""])
    np.testing.assert_allclose(final, expected["embedding"], rtol=1e-5, atol=1e-5)


def test_the_modules_of_the_network_are_its_tensors() -> None:
    assert {"", "features", "features.0", "hidden.1", "tokens"} <= set(load_tiny().tensors)


def test_an_activation_in_place_does_not_change_the_output_before_it() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
    samples = np.random.default_rng(7).standard_normal((1, 3, 8, 8), np.float32)
    expected = network[0](torch.from_numpy(samples)).detach().numpy()
    before, after = TorchEngine(network, CPU).run(samples, ["0", "1"])
    np.testing.assert_array_equal(before, expected)
    np.testing.assert_array_equal(after, np.maximum(expected, 0))


def test_only_modules_that_a_run_wanted_have_hooks() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten())
    engine = TorchEngine(network, CPU)
    samples = np.ones((1, 3, 8, 8), np.float32)
    for _ in range(2):
        engine.run(samples, ["1", ""])
        assert [len(module._forward_hooks) for module in network] == [0, 1, 0]


class Timm(nn.Module):
    """A network with the methods of timm's networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2)

    def forward_features(self, samples: torch.Tensor) -> torch.Tensor:
        return torch.add(self.stem(samples), 1)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean((2, 3))

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(samples))


def test_the_method_forward_features_is_a_tensor_too() -> None:
    samples = np.ones((2, 3, 8, 8), np.float32)
    engine = TorchEngine(Timm(), CPU)
    stem, features, final = engine.run(samples, ["stem", "forward_features", ""])
    np.testing.assert_allclose(features, stem + 1, rtol=1e-6)
    np.testing.assert_allclose(final, features.mean((2, 3)), rtol=1e-6)
    (features_alone,) = engine.run(samples, ["forward_features"])
    np.testing.assert_array_equal(features_alone, features)


class TwoResults(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.ReLU()

    def forward(self, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return samples, samples


@pytest.mark.parametrize(
    ("tensor", "message"),
    [("", "the module at the end gives a tuple, not a tensor"), ("unused", "the module unused is not run")],
)
def test_a_module_that_gives_no_tensor_is_an_error(tensor: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        TorchEngine(TwoResults(), CPU).run(np.ones((1, 3, 4, 4), np.float32), [tensor])


def test_weights_of_another_architecture_are_refused_in_one_sentence() -> None:
    state = dict(tiny_network(3).state_dict())
    del state["features.0.bias"]
    state["head.weight"] = torch.zeros(2)
    state["hidden.0.weight"] = torch.zeros(8, 1, 3, 3)
    with pytest.raises(EngineError) as caught:
        load_tiny(state)
    assert str(caught.value) == (
        "weights.safetensors does not have the weights of tests.backbones.models:tiny_network: it lacks "
        "features.0.bias; it also has head.weight; it has hidden.0.weight [8, 1, 3, 3] instead of [8, 3, 3, 3]"
    )


def test_a_file_that_is_not_safetensors_is_refused() -> None:
    with pytest.raises(EngineError, match=r"weights\.safetensors is not a safetensors file"):
        load_torch(table(channels=3), b"\x80\x04pickle", CPU, allow_code_models=True)


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        ("poolservice:nothing", {}, "there is no architecture poolservice:nothing; there are .*mobilenet_v2"),
        ("tests.backbones.models:tiny_network", {"width": 3}, "does not take torch.arguments: .*width"),
        ("tests.backbones.models:tiny_network", {"channels": 0.5}, "does not take torch.arguments: "),
        ("tests.backbones.models:nothing", {}, "cannot be imported: .*nothing"),
        ("no_such_module:network", {}, "cannot be imported: No module named 'no_such_module'"),
        ("builtins:dict", {}, "builtins:dict gives a dict; it must give a torch.nn.Module"),
    ],
)
def test_an_architecture_that_does_not_exist_is_refused(
    architecture: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        load_torch(table(architecture, **arguments), save({}), CPU, allow_code_models=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_cannot_hold_the_network_is_an_error_in_one_sentence() -> None:
    weights = save(dict(tiny_network(3).state_dict()))
    with pytest.raises(EngineError, match=r"torch cannot load .*tiny_network on cuda: "):
        load_torch(table(channels=3), weights, torch.device("cuda"), allow_code_models=True)


def test_an_architecture_of_any_module_needs_the_operators_permission() -> None:
    with pytest.raises(EngineError, match="can run any code; start the server with --allow-code-models"):
        load_torch(table("os:system", command="false"), save({}), CPU, allow_code_models=False)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for timm, which is not installed; return the names of the networks that it was asked for."""
    created: list[str] = []

    class FakeTimm:
        def is_model(self, name: str) -> bool:
            return name == "resnet18"

        def create_model(self, name: str, *, pretrained: bool, **_arguments: Any) -> nn.Module:
            assert not pretrained
            created.append(name)
            return Timm()

    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    return created


def test_an_architecture_of_timm_is_created_without_a_download(timm: list[str]) -> None:
    engine = load_torch(table("timm:resnet18"), save(Timm().state_dict()), CPU, allow_code_models=False)
    assert timm == ["resnet18"]
    assert "forward_features" in engine.tensors


def test_an_architecture_that_timm_lacks_is_refused(timm: list[str]) -> None:
    with pytest.raises(EngineError, match="the installed timm has no architecture resnet19"):
        load_torch(table("timm:resnet19"), save({}), CPU, allow_code_models=False)
    assert timm == []


def test_without_timm_the_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EngineError, match="the architecture timm:resnet18 needs timm, which cannot be imported"):
        load_torch(table("timm:resnet18"), save({}), CPU, allow_code_models=False)


@pytest.fixture(scope="session")
def program() -> bytes:
    """A program of a small network, for batches of any size."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    exported = torch.export.export(network, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("N")},))
    file = io.BytesIO()
    torch.export.save(exported, file)
    return file.getvalue()


def test_a_program_runs_with_the_operators_permission_and_a_warning(program: bytes) -> None:
    with capture_logs() as logs:
        engine = load_program(program, "mine", allow_code_models=True)
    assert [(log["log_level"], log["backbone"]) for log in logs] == [("warning", "mine")]
    (name,) = engine.tensors
    (values,) = engine.run(np.ones((3, 3, 8, 8), np.float32), [name])
    assert values.shape == (3, 4, 6, 6)
    assert (values >= 0).all()


def test_a_program_needs_the_operators_permission(program: bytes) -> None:
    with pytest.raises(EngineError, match="can run any code while it is read; start the server with --allow-code"):
        load_program(program, "mine", allow_code_models=False)


def test_a_file_that_is_no_program_is_refused_in_one_sentence() -> None:
    with pytest.raises(EngineError, match="torch cannot read the program: ") as caught:
        load_program(b"not a program", "mine", allow_code_models=True)
    assert "\n" not in str(caught.value)
