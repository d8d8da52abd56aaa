"""Stages and batch keys: what is equal may be batched, and validation builds both without torch."""

import subprocess
import sys

import numpy as np

from poolservice.specs import AvgPool2d, MaxPool2d
from poolservice_server.pool_stage import BatchKey, PoolStage


def test_request_validation_does_not_import_torch() -> None:
    # In a fresh process, because this one has torch already.
    program = "import sys, poolservice_server.core.plan; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_stages_that_compute_the_same_are_equal() -> None:
    assert PoolStage((MaxPool2d(2),)) == PoolStage((MaxPool2d((2, 2)),))
    assert hash(PoolStage((MaxPool2d(2),))) == hash(PoolStage((MaxPool2d((2, 2)),)))
    assert PoolStage((MaxPool2d(2),)) != PoolStage((MaxPool2d(2),), unit_scale=True)
    assert PoolStage((MaxPool2d(2), AvgPool2d(2))) != PoolStage((AvgPool2d(2), MaxPool2d(2)))


def test_batch_keys_are_equal_if_stage_shape_and_dtype_are() -> None:
    key = BatchKey(PoolStage((MaxPool2d(2),)), (8, 8), np.dtype(np.float32))
    same = BatchKey(PoolStage((MaxPool2d((2, 2)),)), (8, 8), np.dtype(np.float32))
    assert key == same
    assert hash(key) == hash(same)
    assert key != BatchKey(PoolStage((MaxPool2d(3),)), (8, 8), np.dtype(np.float32))
    assert key != BatchKey(key.stage, (8, 9), key.dtype)
    assert key != BatchKey(key.stage, (8, 8), np.dtype(np.float64))
    assert key != "a key"
