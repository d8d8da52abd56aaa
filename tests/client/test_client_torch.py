"""Results as torch tensors, with `returns="torch"`."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from poolservice_client import AsyncPoolClient, AvgPool2d, InvalidRequest, MaxPool2d, PoolClient, PoolResponse


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_the_result_is_a_writable_tensor_of_the_same_dtype(client: PoolClient, dtype: torch.dtype) -> None:
    x = torch.arange(3 * 8 * 8).reshape(3, 8, 8).to(dtype)
    y = client.pool(x, MaxPool2d(2), returns="torch")
    assert y.dtype == dtype
    assert torch.equal(y, x.reshape(3, 4, 2, 4, 2).amax((2, 4)))
    y += 1


def test_pairs_lists_and_responses_keep_their_form(client: PoolClient) -> None:
    x = torch.randn(2, 3, 8, 8)
    expected, where = F.max_pool2d(x, 2, return_indices=True)
    response = client.pool(x, [MaxPool2d(2, return_indices=True), AvgPool2d(2)], returns="torch", execution=True)
    assert isinstance(response, PoolResponse)
    assert response.execution.device == "cpu"
    (values, indices), means = response.result
    assert torch.equal(values, expected)
    assert torch.equal(indices, where)
    torch.testing.assert_close(means, F.avg_pool2d(x, 2))


def test_map_yields_tensors(client: PoolClient) -> None:
    xs = [torch.full((3, 8, 8), float(number)).bfloat16() for number in range(100)]
    for number, y in enumerate(client.map(xs, MaxPool2d(2), returns="torch")):
        assert torch.equal(y, torch.full((3, 4, 4), float(number)).bfloat16())


async def test_the_asyncio_client_returns_tensors(server_address: str) -> None:
    x = torch.ones(3, 8, 8)
    async with AsyncPoolClient(server_address) as client:
        assert torch.equal(await client.pool(x, MaxPool2d(2), returns="torch"), torch.ones(3, 4, 4))
        async for y in client.map([x] * 3, MaxPool2d(2), returns="torch"):
            assert torch.equal(y, torch.ones(3, 4, 4))


def test_the_tensor_shares_its_memory_with_numpy(client: PoolClient) -> None:
    y = client.pool(np.ones((3, 8, 8), np.float32), MaxPool2d(2), returns="torch")
    array = y.numpy()
    array[:] = 5
    assert bool((y == 5).all())


def test_another_value_of_returns_is_rejected(client: PoolClient) -> None:
    other: Any = "jax"
    for call in (client.pool, client.map):
        with pytest.raises(InvalidRequest, match='returns: must be "numpy" or "torch"; got \'jax\''):
            call([[[1.0]]], MaxPool2d(1), returns=other)


def test_a_missing_torch_is_reported_before_anything_is_sent() -> None:
    program = """
import sys
sys.modules["torch"] = None
from poolservice_client import InvalidRequest, MaxPool2d, PoolClient
for call in (PoolClient("localhost:1").pool, PoolClient("localhost:1").map):
    try:
        call([[[1.0]]], MaxPool2d(1), returns="torch")
    except InvalidRequest as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.count('"torch" needs torch, which cannot be imported here') == 2
