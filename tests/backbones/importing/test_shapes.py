"""What the tensors of a network can serve as."""

import pytest

from poolservice_server.backbones.importing.shapes import TensorUse, use_of


@pytest.mark.parametrize(
    ("shape", "image", "use"),
    [
        ((2048, 7, 7), (224, 224), TensorUse("map", (2048, 7, 7))),
        ((512, 10, 20), (320, 640), TensorUse("map", (512, 10, 20))),
        # Inception's convolutions without padding.
        ((2048, 8, 8), (299, 299), TensorUse("map", (2048, 8, 8))),
        ((288, 35, 35), (299, 299), TensorUse("map", (288, 35, 35))),
        # Swin's channels are last.
        ((7, 7, 768), (224, 224), TensorUse("map", (7, 7, 768), layout="NHWC")),
        ((196, 384), (224, 224), TensorUse("tokens", (196, 384), grid=(14, 14))),
        ((197, 384), (224, 224), TensorUse("tokens", (197, 384), prefix_tokens=1, grid=(14, 14))),
        # DINOv2 with a class token and four registers.
        ((1374, 384), (518, 518), TensorUse("tokens", (1374, 384), prefix_tokens=5, grid=(37, 37))),
        ((99, 384), (112, 224), TensorUse("tokens", (99, 384), prefix_tokens=1, grid=(7, 14))),
        ((1000,), (224, 224), TensorUse("vector", (1000,))),
        # Attention, means, a scalar, and a tensor without positions.
        ((6, 197, 197), (224, 224), None),
        ((6, 197, 64), (224, 224), None),
        ((2048, 1, 1), (224, 224), None),
        ((1,), (224, 224), None),
        ((2, 3, 4, 5), (224, 224), None),
        ((100, 4), (224, 224), TensorUse("tokens", (100, 4), grid=(10, 10))),
    ],
)
def test_the_use_follows_from_the_shape(shape: tuple[int, ...], image: tuple[int, int], use: TensorUse | None) -> None:
    assert use_of(shape, image) == use
