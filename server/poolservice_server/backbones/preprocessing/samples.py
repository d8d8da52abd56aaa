"""From the planes of a decoded image to a sample: resized and cropped, in the order of the network's channels."""

import numpy as np

from poolservice_server.backbones.manifest import Input, Preprocessing
from poolservice_server.backbones.preprocessing import interpolation, pillow_resize
from poolservice_server.backbones.preprocessing.geometry import geometry
from poolservice_server.stop import Stop, never


def to_samples(planes: np.ndarray, input: Input, preprocessing: Preprocessing, stop: Stop = never) -> np.ndarray:
    """Resize and crop an image.

    Thread-safe. Pillow releases the GIL while it resizes. Large images are resized in pieces of about PIECE_STEPS.

    Args:
        planes: the upright image as the decoder returns it, (C, H, W) of the input's color mode, planar or interleaved
            in memory: uint8, or uint16 for grayscale of more than 8 bits, whose high bytes are used. `check_size`
            accepts its size.
        input: the input of the backbone.
        preprocessing: how an image becomes an input.
        stop: returns True if nobody waits for the image any more.

    Returns:
        uint8 (1, C, height, width), contiguous, of the input's size.

    Raises:
        WorkStopped: `stop` returned True.
    """
    if planes.dtype == np.uint16:
        # The channels of a grayscale image are equal. Pillow would clip values above 255 to white.
        planes = planes[:1].astype("<u2", copy=False).view(np.uint8)[..., 1::2]
    _, height, width = planes.shape
    columns, rows = geometry(width, height, input, preprocessing)
    if (columns.resized, rows.resized) == (width, height):
        pixels = planes[:, slice(*rows.kept), slice(*columns.kept)]
    elif preprocessing.antialias:
        pixels = pillow_resize.resize(planes, columns, rows, preprocessing.filter, stop)
    else:
        pixels = interpolation.resize(planes, columns, rows, preprocessing.filter, stop)
    if input.channel_order == "BGR":
        pixels = pixels[::-1]
    samples = np.empty((1, input.channels, input.height, input.width), np.uint8)
    if pixels.shape[1:] != samples.shape[2:]:
        samples[0] = np.reshape(preprocessing.fill, (-1, 1, 1))
    samples[0, :, rows.place, columns.place] = pixels
    return samples
