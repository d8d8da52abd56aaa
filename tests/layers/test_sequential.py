"""Sequential gives what its layers give one after the other, in one call, and refuses what does not fit beforehand."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from poolservice_client import (
    AdaptiveAvgPool2d,
    AvgPool1d,
    GlobalAvgPool2d,
    InvalidRequest,
    MaxPool2d,
    PoolClient,
    Sequential,
    Sequential2d,
    SoftPool2d,
    SpatialPyramidPool2d,
)

SEQUENCES: list[list[Any]] = [
    [MaxPool2d(2)],
    [MaxPool2d(2), SoftPool2d(2)],
    [MaxPool2d(3, 2, 1), AdaptiveAvgPool2d(4), GlobalAvgPool2d()],
    [SoftPool2d(3, 1, 1), MaxPool2d(2), SpatialPyramidPool2d((1, 2))],
]


@pytest.fixture
def client(server_address: str) -> Any:
    with PoolClient(server_address) as connected:
        yield connected


@pytest.mark.parametrize("layers", SEQUENCES, ids=len)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(3, 12, 10), (2, 3, 12, 10)])
def test_a_sequence_gives_what_its_layers_give_one_after_the_other(
    client: PoolClient, layers: list[Any], dtype: Any, shape: tuple[int, ...]
) -> None:
    x = (np.random.default_rng(0).random(shape) * 100).astype(dtype)
    expected = x
    for layer in layers:
        expected = client.pool(expected, layer)
    got = client.pool(x, Sequential(layers))
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


def test_a_sequence_pools_images_and_stands_beside_other_specs(client: PoolClient, photograph: Path) -> None:
    both, one = client.pool(photograph, [Sequential([MaxPool2d(2), GlobalAvgPool2d()]), MaxPool2d(2)])
    np.testing.assert_allclose(both, client.pool(one, GlobalAvgPool2d()), rtol=1e-6)


@pytest.mark.parametrize(
    ("layers", "shape", "field", "reason"),
    [
        (
            [MaxPool2d(2), MaxPool2d(9)],
            (3, 12, 10),
            "specs[0].layers[1].kernel_size",
            "no window fits: a kernel_size of 9 is larger than the input, 6 with a padding of 0 on either side; the "
            "input of this layer has the shape [3, 6, 5]",
        ),
        (
            [SpatialPyramidPool2d(), MaxPool2d(2)],
            (3, 12, 10),
            "specs[0].layers[1]",
            "takes a feature map of 2 spatial dimensions, but the layer before it gives [63]",
        ),
        ([MaxPool2d(2)], (12, 10), "x.shape", "MaxPool2d takes 3 dimensions (C, height, width) or 4"),
    ],
    ids=["window", "vector", "dimensions"],
)
def test_a_layer_that_does_not_take_the_result_before_it_is_refused(
    client: PoolClient, layers: list[Any], shape: tuple[int, ...], field: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(reason)) as refused:
        client.pool(np.zeros(shape, np.float32), Sequential(layers))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("layers", "field", "reason"),
    [
        ([], "layers", "must be a list of 1 to 16 specs"),
        ([MaxPool2d(2)] * 17, "layers", "must be a list of 1 to 16 specs"),
        (["max2d"], "layers[0]", "must be a spec such as MaxPool2d(2); got 'max2d'"),
        ([Sequential([MaxPool2d(2)])], "layers[0]", "is a sequence itself; write its layers in the list"),
        ([MaxPool2d], "layers[0]", "got the class MaxPool2d; write MaxPool2d(...)"),
        ([nn.MaxPool2d(2)], "layers[0]", "of torch.nn.modules.pooling"),
        (MaxPool2d(2), "layers", "such as [MaxPool2d(2), GeMPool2d()]; got MaxPool2d(kernel_size=2)"),
        ([MaxPool2d(2), AvgPool1d(2)], "layers[1]", "must pool 2 dimensions; AvgPool1d pools 1"),
        ([MaxPool2d(2, return_indices=True)], "layers[0].return_indices", "a sequence has no indices; leave it out"),
    ],
    ids=["none", "many", "word", "nested", "class", "module", "no list", "dimensions", "indices"],
)
def test_wrong_layers_are_refused_in_words(layers: list[Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(reason)) as refused:
        Sequential2d(layers)
    assert refused.value.field == field


def test_the_function_chooses_the_number_of_dimensions_of_its_first_layer() -> None:
    assert Sequential([MaxPool2d(2)]) == Sequential2d([MaxPool2d(2)])
    with pytest.raises(InvalidRequest, match="must be a list of 1 to 16 specs"):
        Sequential([])
    # As torch.nn.Sequential takes them.
    with pytest.raises(InvalidRequest, match=r"must be a list of 1 to 16 specs .*; got 2 arguments"):
        Sequential(MaxPool2d(2), SoftPool2d(2))  # type: ignore[arg-type]
