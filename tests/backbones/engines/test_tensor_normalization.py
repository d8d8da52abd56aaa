"""Normalized tensors have the bits of normalized arrays."""

import numpy as np
import pytest
import torch

from poolservice_server.backbones.engines.normalization import Normalization
from poolservice_server.backbones.manifest import Preprocessing
from poolservice_server.backbones.preprocessing import normalized


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(resize="none", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        Preprocessing(resize="none", scale=1 / 127.5, mean=(1.0,), std=(1.0,)),
        Preprocessing(resize="none", scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0)),
    ],
)
def test_tensors_are_normalized_as_arrays_are(preprocessing: Preprocessing, images: np.ndarray) -> None:
    expected = normalized(images, preprocessing)
    normalization = Normalization(preprocessing, torch.device("cpu"))
    np.testing.assert_array_equal(normalization.apply(torch.from_numpy(images)).numpy(), expected)
