"""EfficientNet-lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6 for quantisation.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, table 1. The
parameters have the names of the state dicts of the package efficientnet-lite-pytorch.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

# Expansion, channels, repetitions, kernel size and first stride of each stage.
_STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
_EPSILON = 1e-3


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0.

    Shape:
        input (N, 3, H, W); `features` (N, 1280, ceil(H / 32), ceil(W / 32)); logits (N, num_classes).
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = _SamePaddedConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, _EPSILON)
        self._blocks = nn.ModuleList()
        channels = 32
        for expansion, out_channels, repetitions, kernel_size, first_stride in _STAGES:
            for repetition in range(repetitions):
                stride = first_stride if repetition == 0 else 1
                self._blocks.append(_Block(channels, out_channels, kernel_size, stride, expansion))
                channels = out_channels
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, _EPSILON)
        # A module of its own, so that the feature map has a name.
        self.features = nn.ReLU6()
        self._fc = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = self.features(self._bn1(self._conv_head(x)))
        logits: Tensor = self._fc(x.mean((2, 3)))
        return logits


class _Block(nn.Module):
    """Widen by 1x1, filter each channel, and narrow by a linear 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self._widens = expansion != 1
        if self._widens:
            self._expand_conv = nn.Conv2d(in_channels, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, _EPSILON)
        self._depthwise_conv = _SamePaddedConv2d(hidden, hidden, kernel_size, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, _EPSILON)
        self._project_conv = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out_channels, _EPSILON)
        self._has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu6(self._bn0(self._expand_conv(x))) if self._widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._has_shortcut else y


class _SamePaddedConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding "same", which has one more zero at the right and bottom if it is odd."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, **keywords: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, **keywords)

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (
            _padding(size, kernel_size, stride)
            for size, kernel_size, stride in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        )
        y: Tensor = super().forward(F.pad(x, (left, right, top, bottom)))
        return y


def _padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2
