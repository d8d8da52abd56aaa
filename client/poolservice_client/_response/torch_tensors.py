"""Results as torch's tensors, for who asks for them. torch is imported then, and only then."""

import importlib
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from poolservice.errors import InvalidRequest
from poolservice_client._response.reader import PoolResponse

if TYPE_CHECKING:
    from torch import Tensor as Tensor
else:
    # What an editor shows is torch's own; here it only stands in annotations.
    Tensor = Any

Numpy: TypeAlias = Literal["numpy"]
Torch: TypeAlias = Literal["torch"]
Returns: TypeAlias = Numpy | Torch


def wants_torch(returns: object) -> bool:
    """Whether results are to be torch's tensors.

    Raises:
        InvalidRequest: it is neither "numpy" nor "torch", or torch is not installed.
    """
    if returns not in ("numpy", "torch"):
        raise InvalidRequest(f'must be "numpy" or "torch"; got {returns!r}', field="returns")
    if returns == "numpy":
        return False
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise InvalidRequest(f'"torch" needs torch, which cannot be imported here: {error}', field="returns") from None
    return True


def as_tensors(result: Any) -> Any:
    """The tensors that a result's arrays are, in the same tuples, lists and PoolResponse, sharing their memory."""
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
        # torch takes no such array of numpy's; the same 16 bits are handed over as integers and named anew.
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
