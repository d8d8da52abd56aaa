"""`pool`, as the blocking client has it, and what an editor knows of what comes back."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Unpack, overload

from poolservice.specs import PoolSpec
from poolservice_client._request.payload import Poolable
from poolservice_client._request.query import ColorMode, Output, PoolOptions, PoolQuery
from poolservice_client._response.reader import PoolResponse
from poolservice_client._response.result_types import ArraySpec, R, TensorSpec
from poolservice_client._response.torch_tensors import Numpy, Returns, Torch, as_tensors, wants_torch


class BlockingPooling(ABC):
    """The part of PoolClient that pools."""

    @abstractmethod
    def _call(self, query: PoolQuery, x: Any, timeout: float | None, *, execution: bool = False) -> Any:
        """What comes back for `x`."""

    @overload
    def pool(
        self,
        x: Poolable,
        specs: ArraySpec[R],
        *,
        returns: Numpy = "numpy",
        execution: Literal[False] = False,
        **options: Unpack[PoolOptions],
    ) -> R: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: ArraySpec[R],
        *,
        returns: Numpy = "numpy",
        execution: Literal[True],
        **options: Unpack[PoolOptions],
    ) -> PoolResponse[R]: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: Sequence[ArraySpec[R]],
        *,
        returns: Numpy = "numpy",
        execution: Literal[False] = False,
        **options: Unpack[PoolOptions],
    ) -> list[R]: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: Sequence[ArraySpec[R]],
        *,
        returns: Numpy = "numpy",
        execution: Literal[True],
        **options: Unpack[PoolOptions],
    ) -> PoolResponse[list[R]]: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: TensorSpec[R],
        *,
        returns: Torch,
        execution: Literal[False] = False,
        **options: Unpack[PoolOptions],
    ) -> R: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: TensorSpec[R],
        *,
        returns: Torch,
        execution: Literal[True],
        **options: Unpack[PoolOptions],
    ) -> PoolResponse[R]: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: Sequence[TensorSpec[R]],
        *,
        returns: Torch,
        execution: Literal[False] = False,
        **options: Unpack[PoolOptions],
    ) -> list[R]: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: Sequence[TensorSpec[R]],
        *,
        returns: Torch,
        execution: Literal[True],
        **options: Unpack[PoolOptions],
    ) -> PoolResponse[list[R]]: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: PoolSpec | Sequence[PoolSpec],
        *,
        returns: Returns = "numpy",
        execution: bool = False,
        **options: Unpack[PoolOptions],
    ) -> Any: ...
    def pool(
        self,
        x: Any,
        specs: PoolSpec[Any] | Sequence[PoolSpec[Any]],
        *,
        output: Output = "tensor",
        normalize: bool = False,
        dtype: Literal["float16"] | None = None,
        color_mode: ColorMode | None = None,
        timeout: float | None = None,
        execution: bool = False,
        returns: Returns = "numpy",
    ) -> Any:
        """Pool a tensor or a picture with one spec, or with several at once.

        Args:
            x: a tensor of shape (C, *) or (N, C, *): a numpy array of any layout, a torch tensor, what speaks DLPack
                or numpy's __array__, nested lists of numbers, the path of an .npy file. Or a picture: a path, an
                encoded file's bytes, a PIL image; it becomes float32 (channels, height, width) in [0, 1], upright.
            specs: how to pool, such as MaxPool2d(2); or a list of 1 to 16: `x` is sent and decoded once.
            output: "tensor" keeps the rank of `x`; "features" flattens each result to (D,), or (N, D) where `x`
                is batched.
            normalize: whether each feature vector is divided by its Euclidean norm.
            dtype: "float16" narrows floating results. Default: the layer's own result type, which is that of `x`,
                and float32 for means of integers.
            color_mode: the channels to read a picture in, "RGB" (the default), "GRAY" or "RGBA".
            timeout: seconds until the answer must be there. Default: the client's.
            execution: whether to tell where and how it ran, too.
            returns: "numpy" for arrays, "torch" for torch's tensors, which share the arrays' memory and keep bfloat16.

        Returns:
            For one spec an array, or (array, indices) where it has `return_indices`; for several a list of those,
            in their order. With `execution`, a PoolResponse of that and the Execution. The arrays, or tensors, are
            writable, with memory of their own.

        Raises:
            InvalidRequest: `x`, a spec or an option is wrong, or a message is too large.
            Overloaded: the server's queue is full.
            DeadlineExceeded: no answer in time.
            Unauthenticated: the server does not let this caller in.
            Unavailable: no server answers.
            ServerError: the server failed.
            OSError: the path cannot be read.
        """
        query = PoolQuery.of(specs, output=output, normalize=normalize, dtype=dtype, color_mode=color_mode)
        torch = wants_torch(returns)
        answer = self._call(query, x, timeout, execution=execution)
        return as_tensors(answer) if torch else answer
