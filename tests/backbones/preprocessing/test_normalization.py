"""Normalized values have the bits of torchvision's ToTensor and Normalize, and of Hugging Face's rescale."""

import numpy as np
import pytest
import torch

from poolservice_server.backbones.manifest import Preprocessing
from poolservice_server.backbones.preprocessing import normalized

EVERY_VALUE = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), (2, 3, 16, 16))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_the_bits_are_those_of_torchvision() -> None:
    values = normalized(EVERY_VALUE, Preprocessing(size=16, mean=MEAN, std=STD))
    # ToTensor and Normalize.
    scaled = torch.from_numpy(EVERY_VALUE.copy()).to(torch.float32).div(255)
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (MEAN, STD))
    assert np.array_equal(values, scaled.sub_(mean).div_(std).numpy())


@pytest.mark.parametrize("scale", [1 / 255, 1 / 256, 1 / 127.5, 1.0])
def test_the_scaled_bits_are_those_of_hugging_face(scale: float) -> None:
    values = normalized(EVERY_VALUE, Preprocessing(size=16, scale=scale))
    assert np.array_equal(values, (EVERY_VALUE.astype(np.float64) * scale).astype(np.float32))


def test_any_other_scale_differs_by_at_most_one_unit_in_the_last_place() -> None:
    values = normalized(EVERY_VALUE, Preprocessing(size=16, scale=0.017))
    exact = EVERY_VALUE * 0.017
    assert (np.abs(values - exact) <= np.spacing(exact.astype(np.float32))).all()


def test_mean_and_std_apply_after_scaling() -> None:
    samples = np.full((1, 3, 16, 16), 255, np.uint8)
    values = normalized(samples, Preprocessing(size=16, mean=(0.5,), std=(0.25,)))
    assert (values == 2).all()


def test_a_value_for_all_channels_equals_the_same_value_for_each() -> None:
    one = normalized(EVERY_VALUE, Preprocessing(size=16, mean=(0.45,), std=(0.225,)))
    each = normalized(EVERY_VALUE, Preprocessing(size=16, mean=(0.45,) * 3, std=(0.225,) * 3))
    assert np.array_equal(one, each)


def test_values_that_are_normalized_already_stay_as_they_are() -> None:
    samples = np.ones((1, 3, 16, 16), np.float32)
    assert normalized(samples, Preprocessing(size=16, mean=MEAN, std=STD)) is samples
