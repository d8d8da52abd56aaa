"""The table of architectures."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from torch import nn

from poolservice_server.backbones.engines.architectures.efficientnet_lite import EfficientNetLite0
from poolservice_server.backbones.engines.architectures.mobilenet import MobileNetV2
from poolservice_server.backbones.engines.architectures.resnet import BasicBlock, Bottleneck, ResNet


class Architecture(NamedTuple):
    """A network, and which of its modules are its outputs.

    Attributes:
        build: returns the network, with random weights; it takes the number of classes as `num_classes`.
        feature_map: the name of the module that returns the last feature map, whose mean the classifier takes.
        classifier: the name of the module that returns the logits.
        last_layer: the name of the linear layer, whose weight has a row for each class.
        input_size: the height and width of the images that the published weights were trained for.
        preprocessing: the preset of `importing.presets` that belongs to the published weights.
        paper: where the architecture is described.
    """

    build: Callable[..., nn.Module]
    feature_map: str
    classifier: str
    last_layer: str
    input_size: int
    preprocessing: str
    paper: str


def _resnet(block: type[BasicBlock] | type[Bottleneck], *depths: int) -> Architecture:
    return Architecture(
        partial(ResNet, block, depths), "layer4", "fc", "fc", 224, "torchvision", "https://arxiv.org/abs/1512.03385"
    )


#: The architectures by name, which `backbone.toml` prefixes with "poolservice:".
ARCHITECTURES: Mapping[str, Architecture] = {
    "mobilenet_v2": Architecture(
        MobileNetV2, "features", "classifier", "classifier.1", 224, "torchvision", "https://arxiv.org/abs/1801.04381"
    ),
    "resnet18": _resnet(BasicBlock, 2, 2, 2, 2),
    "resnet34": _resnet(BasicBlock, 3, 4, 6, 3),
    "resnet50": _resnet(Bottleneck, 3, 4, 6, 3),
    "resnet101": _resnet(Bottleneck, 3, 4, 23, 3),
    "resnet152": _resnet(Bottleneck, 3, 8, 36, 3),
    "efficientnet_lite0": Architecture(
        EfficientNetLite0, "features", "_fc", "_fc", 224, "efficientnet-lite", "https://arxiv.org/abs/1905.11946"
    ),
}
