"""Arrays and tensors are converted over the same memory, in every dtype and with any strides."""

import warnings

import ml_dtypes
import numpy as np
import pytest
import torch

from poolservice.dtypes import NUMPY_DTYPES
from poolservice_server.pooling.interop import to_array, to_tensor


@pytest.mark.parametrize("dtype", NUMPY_DTYPES.values(), ids=lambda dtype: dtype.name)
def test_arrays_become_tensors_and_arrays_again_without_a_copy(dtype: np.dtype) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    tensor = to_tensor(array)
    assert tensor.dtype == getattr(torch, dtype.name)
    back = to_array(tensor)
    assert back.dtype == dtype
    assert np.shares_memory(back, array)
    np.testing.assert_array_equal(back, array)


def test_received_bytes_become_a_tensor_without_a_copy_or_a_warning() -> None:
    array = np.frombuffer(bytes(range(24)), np.uint8).reshape(2, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = to_tensor(array)
    assert tensor.data_ptr() == array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [np.dtype(np.uint8), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_arrays_with_strides_of_any_sign_become_tensors(dtype: np.dtype) -> None:
    image = np.arange(60).reshape(4, 5, 3).astype(dtype)
    for planes in (image.transpose(2, 0, 1), image.transpose(2, 0, 1)[:, ::-1], image.transpose(2, 0, 1)[:, ::2]):
        np.testing.assert_array_equal(to_array(to_tensor(planes)), planes)
        row = planes[:, :1][:, ::-1]
        np.testing.assert_array_equal(to_array(to_tensor(row)), row)
