"""Explanation, the return value of `explain`: the classes of an image, and maps of where they were seen."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from poolservice.errors import InvalidRequest
from poolservice_client._response.reader import Execution


class ImageRegion(NamedTuple):
    """A rectangle of an image, in pixels from the top left corner of the upright image.

    It may extend beyond the image, where preprocessing pads it.

    Attributes:
        left: the left edge.
        top: the top edge.
        right: the right edge.
        bottom: the bottom edge.
    """

    left: float
    top: float
    right: float
    bottom: float


# No equality: arrays that are compared with == give arrays.
@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The classes that a backbone sees in an image, and where it sees them.

    There are k classes: first those with the highest scores, then the chosen ones that are not among them.

    Attributes:
        labels: the names of the classes.
        indices: int64 (k,), the indices of the classes.
        logits: float32 (k,), the scores that the backbone's classification head computes.
        probabilities: float32 (k,), the softmax of the logits of all classes, not only of these.
        maps: float32 (k, H, W), the class activation map of each class, of the size of the feature map; None with
            maps=False. For a head that averages the feature map, the mean of a map plus the bias of its class is the
            logit. Source: Zhou et al., "Learning Deep Features for Discriminative Localization", 2016.
        region: the part of the image that the network saw, and that the maps cover. For a tensor, all of it.
        image_size: (height, width) of the upright image, or of the tensor; None with maps=False.
        execution: where and how the request ran.

    Example:
        >>> explanation = client.explain("cat.jpg", backbone="mobilenetv2", top=3)
        >>> print(explanation.labels[0], explanation.probabilities[0])
        >>> where = explanation.heatmaps()[0]
    """

    labels: tuple[str, ...]
    indices: NDArray[np.int64]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32] | None
    region: ImageRegion
    image_size: tuple[int, int] | None
    execution: Execution

    def heatmaps(self, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Return the maps as large as the image, with their values where the network saw them.

        The maps are interpolated bilinearly, as by torch's ``interpolate(mode="bilinear", align_corners=False)``.

        Args:
            size: (height, width) of the whole image in the result. Default: that of the upright image.

        Returns:
            float32 (k, height, width). Pixels outside `region`, which the network did not see, are NaN.

        Raises:
            InvalidRequest: there are no maps, or `size` is not a pair of positive ints.
        """
        if self.maps is None or self.image_size is None:
            raise InvalidRequest("there are no maps; call explain with maps=True", field="maps")
        height, width = self.image_size if size is None else _checked(size)
        vertical = height / self.image_size[0]
        horizontal = width / self.image_size[1]
        left, top, right, bottom = self.region
        rows = _interpolation(height, top * vertical, bottom * vertical, self.maps.shape[1])
        columns = _interpolation(width, left * horizontal, right * horizontal, self.maps.shape[2])
        return np.asarray(rows @ self.maps @ columns.T, np.float32)


def _checked(size: Any) -> tuple[int, int]:
    if (
        not isinstance(size, tuple | list)
        or len(size) != 2
        or not all(isinstance(one, int | np.integer) and one > 0 for one in size)
    ):
        raise InvalidRequest(f"must be (height, width), such as (480, 640); got {size!r}", field="size")
    return int(size[0]), int(size[1])


def _interpolation(pixels: int, start: float, stop: float, values: int) -> NDArray[np.float32]:
    """Return the weights (pixels, values) with which the values that cover start to stop give the pixels.

    Pixels whose center is outside have NaN.
    """
    centers = np.arange(pixels) + 0.5
    # The center of the first value is at 0, that of the last one at values - 1. Beyond them, the edge continues.
    position = np.clip((centers - start) / (stop - start) * values - 0.5, 0, values - 1)
    lower = position.astype(np.int64)
    upper = np.minimum(lower + 1, values - 1)
    weights = np.zeros((pixels, values))
    row = np.arange(pixels)
    np.add.at(weights, (row, lower), 1 - (position - lower))
    np.add.at(weights, (row, upper), position - lower)
    weights[(centers < start) | (centers > stop)] = math.nan
    return weights.astype(np.float32)
