"""MobileNetV2: inverted residual blocks with linear bottlenecks.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 2.
"""

from torch import Tensor, nn

# Expansion, channels, repetitions and first stride of each stage.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1.

    Shape:
        input (N, 3, H, W); `features` (N, 1280, ceil(H / 32), ceil(W / 32)); logits (N, num_classes).
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 32, kernel_size=3, stride=2)]
        channels = 32
        for expansion, out_channels, repetitions, first_stride in _STAGES:
            for repetition in range(repetitions):
                stride = first_stride if repetition == 0 else 1
                layers.append(_InvertedResidual(channels, out_channels, stride, expansion))
                channels = out_channels
        layers.append(_convolution(channels, 1280, kernel_size=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class _InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel by 3x3, and narrow by a linear 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_convolution(in_channels, hidden, kernel_size=1)]
        layers += [
            _convolution(hidden, hidden, kernel_size=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self._has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self._has_shortcut else y


def _convolution(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )
