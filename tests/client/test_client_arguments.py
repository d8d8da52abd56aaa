"""Invalid arguments of clients and calls are rejected by name, before anything is sent."""

import math
from typing import Any

import numpy as np
import pytest

from poolservice_client import AsyncPoolClient, InvalidRequest, MaxPool2d, PoolClient

X = np.ones((2, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"output": "images"}, "output"),
        ({"output": ["tensor"]}, "output"),
        ({"normalize": True}, "normalize"),
        ({"normalize": 1, "output": "features"}, "normalize"),
        ({"dtype": "float32"}, "dtype"),
        ({"dtype": "nonsense"}, "dtype"),
        ({"color_mode": "CMYK"}, "color_mode"),
        ({"color_mode": "RGB"}, "color_mode"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"specs": []}, "specs"),
        ({"specs": None}, "specs"),
        ({"specs": "max2d"}, "specs"),
        ({"specs": MaxPool2d}, "specs"),
        ({"specs": [MaxPool2d(2), 3]}, "specs[1]"),
    ],
)
def test_an_invalid_argument_of_a_call_is_named(options: dict[str, Any], field: str) -> None:
    arguments = {"specs": MaxPool2d(2), **options}
    with PoolClient("127.0.0.1:1") as client, pytest.raises(InvalidRequest) as raised:
        client.pool(X, **arguments)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"address": "localhost"}, "address"),
        ({"address": ""}, "address"),
        ({"address": "http://localhost:50051"}, "address"),
        ({"address": "localhost:99999"}, "address"),
        ({"address": 50051}, "address"),
        ({"timeout": 0}, "timeout"),
        ({"max_message_bytes": 0}, "max_message_bytes"),
        ({"max_message_bytes": 2**31}, "max_message_bytes"),
        ({"max_message_bytes": 1.5}, "max_message_bytes"),
    ],
)
@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
def test_an_invalid_argument_of_the_constructor_is_named(
    client_class: Any, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        client_class(**arguments)
    assert raised.value.field == field


def test_the_repr_shows_the_address() -> None:
    with PoolClient("127.0.0.1:1") as client:
        assert repr(client) == "PoolClient('127.0.0.1:1')"


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
def test_an_unknown_argument_is_named_with_a_similar_one(client_class: Any) -> None:
    with pytest.raises(TypeError, match=f"^{client_class.__name__} has no argument 'adress'; did you mean address\\?$"):
        client_class(adress="localhost:50051")
    with pytest.raises(TypeError, match=r"has no argument 'zzz'$"):
        client_class(zzz=1)


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
def test_an_address_that_is_not_utf_8_is_named(client_class: type[Any]) -> None:
    with pytest.raises(InvalidRequest, match="in UTF-8") as raised:
        client_class("\udcff:1")
    assert raised.value.field == "address"
