"""Results as torch tensors, for callers that pass `returns="torch"`. Only then is torch imported."""

import importlib
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from poolservice.errors import InvalidRequest
from poolservice_client._response.reader import PoolResponse
from poolservice_client._suggestions import is_choice, suggestion

if TYPE_CHECKING:
    from torch import Tensor as Tensor
else:
    # Type checkers and editors see torch's class; at run time the name only appears in annotations.
    Tensor = Any

Numpy: TypeAlias = Literal["numpy"]
Torch: TypeAlias = Literal["torch"]
Returns: TypeAlias = Numpy | Torch


def wants_torch(returns: object) -> bool:
    """Return True if the caller asks for torch tensors, and import torch then.

    Raises:
        InvalidRequest: `returns` is neither "numpy" nor "torch", or torch is not installed.
    """
    if not is_choice(returns, ("numpy", "torch")):
        raise InvalidRequest(
            f'must be "numpy" or "torch"; got {returns!r}{suggestion(returns, ("numpy", "torch"))}', field="returns"
        )
    if returns == "numpy":
        return False
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise InvalidRequest(f'"torch" needs torch, which cannot be imported here: {error}', field="returns") from None
    return True


def as_tensors(result: Any) -> Any:
    """Return a result with its arrays as tensors, which share their memory. Tuples, lists and PoolResponses remain."""
    if isinstance(result, PoolResponse):
        return result._replace(result=as_tensors(result.result))
    if isinstance(result, tuple):
        return tuple(map(as_tensors, result))
    if isinstance(result, list):
        return [as_tensors(one) for one in result]
    return _as_tensor(result)


def _as_tensor(array: NDArray[Any]) -> Any:
    torch = importlib.import_module("torch")
    if array.dtype == ml_dtypes.bfloat16:
        # torch does not accept ml_dtypes' bfloat16, so its bits pass through int16.
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
