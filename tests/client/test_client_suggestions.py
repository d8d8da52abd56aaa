"""Arguments that take one of a few words: the error for a wrong word suggests the right one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from poolservice_client import InvalidRequest, MaxPool2d, PoolClient

X = np.ones((3, 8, 8), np.float32)


def pool(**options: Any) -> None:
    with PoolClient("localhost:1") as client:
        client.pool(X, MaxPool2d(2), **options)


def map_(**options: Any) -> None:
    with PoolClient("localhost:1") as client:
        client.map([X], MaxPool2d(2), **options)


def create(**options: Any) -> None:
    PoolClient("localhost:1", **options).close()


@pytest.mark.parametrize(
    ("call", "name", "value", "suggested"),
    [
        (pool, "layout", "hwc", "HWC"),
        (pool, "layout", "channels_last", "HWC"),
        (pool, "layout", "NCHW", "CHW"),
        (pool, "layout", "WHC", "HWC"),
        (pool, "color_mode", "rgb", "RGB"),
        (pool, "color_mode", "grey", "GRAY"),
        (pool, "color_mode", "L", "GRAY"),
        (pool, "output", "Tensor", "tensor"),
        (pool, "output", "feature", "features"),
        (pool, "dtype", "Float16", "float16"),
        (pool, "dtype", "fp16", "float16"),
        (pool, "returns", "pytorch", "torch"),
        (pool, "returns", "np", "numpy"),
        (map_, "on_error", "ignore", "skip"),
        (map_, "on_error", "Raise", "raise"),
        (map_, "layout", "hwc", "HWC"),
        (create, "compression", "GZIP", "gzip"),
    ],
)
def test_a_misspelt_word_is_suggested(call: Callable[..., None], name: str, value: str, suggested: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        call(**{name: value})
    assert raised.value.field == name
    assert raised.value.reason.endswith(f'got {value!r}; did you mean "{suggested}"?')


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (pool, "layout"),
        (pool, "color_mode"),
        (pool, "output"),
        (pool, "dtype"),
        (pool, "returns"),
        (map_, "on_error"),
        (create, "compression"),
    ],
)
@pytest.mark.parametrize("value", ["", "quite another word", 5, [], X, {"a": 1}], ids=str)
def test_any_other_value_is_an_invalid_request(call: Callable[..., None], name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        call(**{name: value})
    assert raised.value.field == name
    assert "did you mean" not in raised.value.reason
