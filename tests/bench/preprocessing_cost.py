"""Compare the estimates of `preprocessing_cost` with the measured time and peak memory of random images and backbones.

    python tests/bench/preprocessing_cost.py [--cases N] [--seed S] [--all]

See `estimates` for how the images are measured and when the command exits with 1.
"""

import random
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from estimates import Estimate, compare
from poolservice.errors import InvalidRequest
from poolservice_server.backbones.manifest import Input, Preprocessing
from poolservice_server.backbones.preprocessing import check_size, preprocessing_cost, to_samples

_MAX_PIXELS = 16_000_000


class PreprocessingCase(NamedTuple):
    """An image, and the backbone that it is preprocessed for."""

    name: str
    planes: np.ndarray
    input: Input
    preprocessing: Preprocessing


def random_cases(seed: int) -> Iterator[PreprocessingCase]:
    """Yield random images of all shapes, the same ones for a seed."""
    choose = random.Random(seed)
    noise = np.random.default_rng(seed).integers(0, 256, 3 * _MAX_PIXELS, np.uint8)
    while True:
        width, height = (choose.choice([choose.randint(1, 300), choose.randint(1, 6000)]) for _ in range(2))
        if choose.random() < 0.1:
            width, height = choose.sample([choose.randint(1, 30), choose.randint(10_000, 400_000)], 2)
        side = choose.choice([112, 224, 384, 512, 1024])
        backbone_input = Input(height=side, width=side, color_mode=choose.choice(["RGB", "RGB", "GRAY"]))
        preprocessing = _random_preprocessing(choose, side)
        try:
            check_size(width, height, backbone_input, preprocessing)
        except InvalidRequest:
            continue
        if width * height > _MAX_PIXELS:
            continue
        channels = 3 if backbone_input.color_mode == "RGB" else 1
        planes = noise[: channels * width * height]
        is_planar = choose.random() < 0.5
        if is_planar:
            planes = planes.reshape(channels, height, width)
        else:
            planes = np.moveaxis(planes.reshape(height, width, channels), -1, 0)
        name = (
            f"{'planar' if is_planar else 'interleaved'} {backbone_input.color_mode} {width} x {height}, "
            f"{preprocessing.resize} {preprocessing.filter} to {side}, antialias {preprocessing.antialias}"
        )
        yield PreprocessingCase(name, planes, backbone_input, preprocessing)


def _random_preprocessing(choose: random.Random, side: int) -> Preprocessing:
    resize: Any = choose.choice(["shortest", "squash", "longest"])
    antialias = choose.random() < 0.85
    filters = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] if antialias else ["bilinear", "bicubic"]
    resized = choose.choice([side, side * 8 // 7])
    size: Any = (resized, resized) if resize == "squash" else resized
    chosen: Any = choose.choice(filters)
    return Preprocessing(resize=resize, size=size, filter=chosen, antialias=antialias)


def _estimates(seed: int) -> Iterator[Estimate]:
    for case in random_cases(seed):
        _, height, width = case.planes.shape
        steps, peak = preprocessing_cost(width, height, case.input, case.preprocessing)
        run = partial(to_samples, case.planes, case.input, case.preprocessing)
        yield Estimate(case.name, run, steps, peak)


if __name__ == "__main__":
    sys.exit(compare(__file__, __doc__.partition("\n")[0], _estimates, 300))
