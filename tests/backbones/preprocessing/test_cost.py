"""The estimate of what preprocessing costs."""

from typing import Any

import pytest

from poolservice_server.backbones.manifest import Input, Preprocessing
from poolservice_server.backbones.preprocessing import preprocessing_cost

INPUT = Input(height=224, width=224)


@pytest.mark.parametrize("filter", ["nearest", "bilinear", "lanczos"])
@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
def test_a_larger_image_costs_more(filter: Any, resize: Any) -> None:
    size = (224, 224) if resize == "squash" else 224
    preprocessing = Preprocessing(resize=resize, size=size, filter=filter)
    costs = [preprocessing_cost(side, side * 3 // 4, INPUT, preprocessing) for side in (400, 1000, 3000, 9000)]
    assert costs == sorted(costs)
    assert costs[-1][0] > 10 * costs[0][0]


def test_the_memory_of_a_large_image_does_not_grow_with_its_pixels() -> None:
    # Of 60 million pixels, Pillow's image alone would take 240 MB.
    _, peak_bytes = preprocessing_cost(9000, 6700, INPUT, Preprocessing(size=256))
    assert peak_bytes < 2 * 8 * 2**20


def test_a_long_column_costs_the_image_between_the_passes() -> None:
    # Squashing keeps all rows between the passes if Pillow resizes the columns first.
    _, peak_bytes = preprocessing_cost(4_000_000, 25, INPUT, Preprocessing(resize="squash"))
    assert peak_bytes > 4_000_000 * 4 * 16


def test_an_image_of_the_right_size_costs_its_sample() -> None:
    assert preprocessing_cost(224, 224, INPUT, Preprocessing(size=224))[1] == 3 * 224 * 224


@pytest.mark.parametrize("color_mode", ["RGB", "GRAY"])
def test_the_memory_includes_the_sample_and_the_pixels_that_are_kept(color_mode: Any) -> None:
    backbone_input = Input(height=1000, width=1000, color_mode=color_mode)
    preprocessing = Preprocessing(resize="squash")
    _, peak_bytes = preprocessing_cost(30, 30, backbone_input, preprocessing)
    assert peak_bytes >= 2 * backbone_input.channels * 1_000_000
