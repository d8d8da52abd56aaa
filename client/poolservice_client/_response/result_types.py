"""What comes back, by what was asked: the types of `pool` and `map`, which only a type checker reads."""

from typing import Any, Protocol, TypeAlias, TypeVar

from numpy.typing import NDArray

from poolservice.specs import PoolSpec
from poolservice_client._response.torch_tensors import Tensor

Array: TypeAlias = NDArray[Any]

A_contra = TypeVar("A_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

#: What one spec gives. Bound, so that mypy does not take specs that give unlike things to give objects.
R = TypeVar("R", bound="Array | Tensor | tuple[Any, ...]")


class _Gives(Protocol[A_contra, R_co]):
    """What a poolservice.specs.result_types.ResultType is to who has arrays of one type."""

    def of(self, array: A_contra, /) -> R_co: ...


#: A spec that gives R where results are numpy's arrays.
ArraySpec: TypeAlias = PoolSpec[_Gives[Array, R]]
#: A spec that gives R where results are torch's tensors.
TensorSpec: TypeAlias = PoolSpec[_Gives[Tensor, R]]
