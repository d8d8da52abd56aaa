"""Result types of `pool` and `map` for type checkers: which type each spec gives, as arrays or as torch tensors."""

from typing import Any, Protocol, TypeAlias, TypeVar

from numpy.typing import NDArray

from poolservice.specs import PoolSpec
from poolservice_client._response.torch_tensors import Tensor

Array: TypeAlias = NDArray[Any]

A_contra = TypeVar("A_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

#: The result of one spec. Without the bound, mypy would join the types of different specs to `object`.
R = TypeVar("R", bound="Array | Tensor | tuple[Any, ...]")


class _ResultOf(Protocol[A_contra, R_co]):
    """The interface of a poolservice.specs.result_types.ResultType for one type of array."""

    def of(self, array: A_contra, /) -> R_co: ...


#: A spec whose result is R if results are numpy arrays.
ArraySpec: TypeAlias = PoolSpec[_ResultOf[Array, R]]
#: A spec whose result is R if results are torch tensors.
TensorSpec: TypeAlias = PoolSpec[_ResultOf[Tensor, R]]
