"""Error messages name the SDK's parameters, never the fields and enums of the wire format."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from poolservice_client import GlobalAvgPool2d, InvalidRequest, MaxPool1d, MaxPool2d, MaxPool3d, PoolClient

X = np.ones((3, 8, 8), np.float32)

_WIRE_NAMES = re.compile(
    r"max_pool|tensor\.|image\.|output\.|l2_normalize|IMAGE|FEATURE_VECTOR|FLOAT16|OUTPUT_FORMAT|DATA_TYPE"
)


@pytest.mark.parametrize(
    ("x", "specs", "options", "message"),
    [
        (X, MaxPool2d(9), {}, "specs[0].kernel_size: no window fits"),
        (X, [MaxPool2d(2), MaxPool2d(3, dilation=4)], {}, "specs[1].dilation: no window fits"),
        (X, MaxPool3d(2), {}, "x.shape: MaxPool3d takes 4 dimensions"),
        (X > 1, MaxPool2d(2), {}, "x.dtype: bool cannot be pooled"),
        (X, [MaxPool2d(1)] * 17, {}, "specs: must be 1 to 16 specs; got 17"),
        (X.astype(np.int64), MaxPool2d(2), {"dtype": "float16"}, "dtype: float16 narrows floating results"),
        (b"some notes", MaxPool2d(2), {}, "x: these 10 bytes are not a JPEG"),
        (np.float32(3), MaxPool2d(2), {}, "x.shape: a scalar has nothing to pool"),
        ({}, MaxPool2d(2), {}, "x: dict cannot be pooled"),
        (["a.jpg", "b.jpg"], MaxPool2d(2), {}, "x: pool takes one image at a time, and map takes many"),
    ],
)
def test_errors_of_pool_name_its_parameters(
    client: PoolClient, x: Any, specs: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        client.pool(x, specs, **options)
    assert str(raised.value).startswith(message)
    assert not _WIRE_NAMES.search(str(raised.value))


@pytest.mark.parametrize(
    ("x", "spec", "message"),
    [
        (np.ones((5, 8, 8)), MaxPool2d(2), "output: an image takes an unbatched 2-D result of 1, 3 or 4 channels"),
        (np.ones((2, 3, 8, 8)), MaxPool2d(2), "output: an image takes an unbatched 2-D result"),
        (np.ones((3, 8), np.float32), MaxPool1d(2), "output: an image takes an unbatched 2-D result"),
        (
            np.ones((3, 3, 8)),
            MaxPool1d(2),
            "output: an image takes an unbatched 2-D result of 1, 3 or 4 channels; MaxPool1d, which pools 1-D, gives",
        ),
        (np.ones((3, 8, 8), np.int64), MaxPool2d(2), "output: an image takes floats or uint8; MaxPool2d gives int64"),
        (X, MaxPool2d(2, return_indices=True), "specs[0].return_indices: images have no indices"),
    ],
)
def test_errors_of_pool_image_name_its_parameters(client: PoolClient, x: Any, spec: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        client.pool_image(x, spec)
    assert str(raised.value).startswith(message)
    assert not _WIRE_NAMES.search(str(raised.value))


def test_channels_last_and_specs_of_different_dimensions_are_explained(client: PoolClient) -> None:
    with pytest.raises(InvalidRequest, match=r"channels last, \(H, W, C\), move the channels to the front"):
        client.pool(np.ones((24, 24, 3), np.uint8), MaxPool2d(8), layout="CHW")
    with pytest.raises(InvalidRequest) as raised:
        client.pool(X, MaxPool2d(9999))
    assert "channels last" not in str(raised.value)
    with pytest.raises(
        InvalidRequest, match=r"specs\[0\] pools 1 and specs\[1\] pools 2; send them in separate requests"
    ):
        client.pool(X, [MaxPool1d(2), MaxPool2d(2)])


def test_an_open_file_is_rejected_with_a_hint(client: PoolClient) -> None:
    with open(__file__, "rb") as file, pytest.raises(InvalidRequest, match=r"to send an open file, pass its read\(\)"):
        client.pool(file, MaxPool2d(2))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("max2d", "got 'max2d'; did you mean MaxPool2d(...)?"),
        ("MaxPool2D", "got 'MaxPool2D'; did you mean MaxPool2d(...)?"),
        ("globalavgpool3d", "did you mean GlobalAvgPool3d(...)?"),
        ("zzz", "got 'zzz'"),
        (MaxPool2d, "; write poolservice_client.MaxPool2d(...)"),
        (
            torch.nn.MaxPool2d,
            "got the class torch.nn.modules.pooling.MaxPool2d; write poolservice_client.MaxPool2d(...)",
        ),
        (torch.nn.MaxPool2d(2), "got torch.nn's MaxPool2d; write poolservice_client.MaxPool2d(kernel_size=2)"),
        (
            torch.nn.MaxPool2d((3, 2), stride=1, return_indices=True),
            "write poolservice_client.MaxPool2d(kernel_size=(3, 2), stride=1, return_indices=True)",
        ),
        (torch.nn.AvgPool1d(3, padding=1), "write poolservice_client.AvgPool1d(kernel_size=3, padding=1)"),
        (torch.nn.LPPool3d(2, 3), "write poolservice_client.LPPool3d(norm_type=2.0, kernel_size=3)"),
        (
            torch.nn.AdaptiveAvgPool2d((None, 4)),
            "write poolservice_client.AdaptiveAvgPool2d(output_size=(None, 4))",
        ),
        (torch.nn.MaxPool2d(2, padding=2), "write poolservice_client.MaxPool2d(...)"),
        (torch.nn.Sequential(torch.nn.MaxPool2d(2)), "got Sequential("),
        (X, "got array([[[1., "),
    ],
)
def test_a_value_that_is_not_a_spec_gets_a_suggestion(client: PoolClient, value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as of_single:
        client.pool(X, value)
    if not isinstance(value, np.ndarray | str):
        with pytest.raises(InvalidRequest) as of_list:
            client.pool(X, [GlobalAvgPool2d(), value])
        assert str(of_list.value).startswith("specs[1]: must be a spec such as MaxPool2d(2); got ")
        assert message in str(of_list.value)
    assert str(of_single.value).startswith("specs: must be a spec such as MaxPool2d(2), or a list of them; got ")
    assert message in str(of_single.value)
    assert len(str(of_single.value)) < 200
    assert "\n" not in str(of_single.value)
