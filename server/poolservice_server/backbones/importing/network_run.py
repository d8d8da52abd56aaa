"""Runs an imported network, to check what the analysis of its graph found."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.linear_head import LinearHead
from poolservice_server.backbones.importing.session import Session
from poolservice_server.foreign_text import quote

#: The largest difference between two computations of an output, relative to its largest value.
MAX_DIFFERENCE = 1e-3

_SEED = 18


def test_images(shape: tuple[int, int, int], samples: int) -> np.ndarray:
    """Return images (N, C, H, W) for a run: smooth noise with the mean and deviation of normalized photographs."""
    rng = np.random.default_rng(_SEED)
    channels, height, width = shape
    coarse = rng.standard_normal((samples, channels, -(-height // 8), -(-width // 8)), dtype=np.float32)
    return np.ascontiguousarray(coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width])


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest expected value."""
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))


class NetworkRun:
    """The outputs of a network for two images, of which the second is also run alone.

    Attributes:
        images: (2, C, H, W).
        outputs: the outputs by their tensors.
    """

    def __init__(
        self, model: onnx.ModelProto, input_name: str, shape: tuple[int, int, int], tensors: Sequence[str]
    ) -> None:
        """Run the network.

        Args:
            model: the network.
            input_name: the name of its input.
            shape: the shape (C, H, W) of an image.
            tensors: the names of the outputs to compute.

        Raises:
            ImportFailed: it does not run, or its outputs depend on the batch or are no numbers.
        """
        self.images = test_images(shape, 2)
        session = Session(model, input_name)
        self.outputs: Mapping[str, np.ndarray] = session.run(self.images, tensors)
        single = session.run(self.images[1:], tensors)
        for name, found in self.outputs.items():
            _check_output(name, found, single[name])

    def head_difference(self, head: LinearHead, layout: str) -> float:
        """Return how far the head's logits are from the network's, relative to their largest value."""
        means = self.outputs[head.feature_map].mean((1, 2) if layout == "NHWC" else (2, 3))
        return relative_difference(means @ head.weight.T + head.bias, self.outputs[head.logits])


def _check_output(name: str, found: np.ndarray, single: np.ndarray) -> None:
    if found.ndim < 2 or len(found) != 2 or found.shape[1:] != single.shape[1:]:
        raise ImportFailed(
            f"the output {quote(name)} must have the images as its first dimension; its shape is {found.shape} for two "
            f"images and {single.shape} for one"
        )
    if not np.isfinite(found).all():
        raise ImportFailed(f"the output {quote(name)} has values that are no numbers, for an image of noise")
    if (difference := relative_difference(found[1:], single)) > MAX_DIFFERENCE:
        raise ImportFailed(
            f"the output {quote(name)} of an image depends on the other images of its batch, by {difference:.1e} of "
            "its largest value; export the network in evaluation mode, with a dynamic batch size"
        )
