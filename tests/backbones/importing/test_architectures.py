"""The architectures, against the published facts about them."""

import pytest
import torch

from poolservice_server.backbones.engines.architectures import ARCHITECTURES
from poolservice_server.backbones.importing.presets import PRESETS

# The numbers of parameters that torchvision's documentation and the paper of EfficientNet-lite state.
PARAMETERS = {
    "mobilenet_v2": 3_504_872,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "efficientnet_lite0": 4_652_008,
}
# Some names of published state dicts, with their shapes.
NAMES: dict[str, dict[str, tuple[int, ...]]] = {
    "mobilenet_v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.18.1.running_var": (1280,),
        "classifier.1.bias": (1000,),
    },
    "resnet18": {"layer2.0.downsample.1.bias": (128,), "layer4.1.conv2.weight": (512, 512, 3, 3)},
    "resnet50": {"layer1.0.downsample.0.weight": (256, 64, 1, 1), "layer4.2.conv3.weight": (2048, 512, 1, 1)},
    "efficientnet_lite0": {
        "_conv_stem.weight": (32, 3, 3, 3),
        "_blocks.1._expand_conv.weight": (96, 16, 1, 1),
        "_blocks.15._project_conv.weight": (320, 1152, 1, 1),
        "_fc.weight": (1000, 1280),
    },
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_parameters_are_those_of_published_weights(name: str) -> None:
    with torch.device("meta"):
        network = ARCHITECTURES[name].build()
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    assert NAMES.get(name, {}).items() <= shapes.items()


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "resnet50", "efficientnet_lite0"])
def test_the_last_layer_takes_the_mean_of_the_feature_map(name: str) -> None:
    architecture = ARCHITECTURES[name]
    network = architecture.build(num_classes=7).eval()
    outputs: dict[str, torch.Tensor] = {}
    for module in (architecture.feature_map, architecture.classifier):
        network.get_submodule(module).register_forward_hook(
            lambda _module, _arguments, output, module=module: outputs.__setitem__(module, output)
        )
    with torch.inference_mode():
        logits = network(torch.randn(2, 3, 65, 96))
        features = outputs[architecture.feature_map]
        assert features.shape[2:] == (3, 3)
        torch.testing.assert_close(outputs[architecture.classifier], logits)
        last = network.get_submodule(architecture.last_layer)
        torch.testing.assert_close(last(features.mean((2, 3))), logits)


def test_each_architecture_has_a_known_preprocessing() -> None:
    assert {architecture.preprocessing for architecture in ARCHITECTURES.values()} <= set(PRESETS)
