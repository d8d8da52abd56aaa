"""The `pool` method of the blocking client, with its result types for type checkers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Unpack, overload

from poolservice.specs import PoolSpec
from poolservice_client._request.layout import Layout
from poolservice_client._request.options import BackboneOptions, ColorMode, Output, PoolOptions
from poolservice_client._request.payload import Poolable
from poolservice_client._request.query import PoolQuery
from poolservice_client._response.reader import PoolResponse
from poolservice_client._response.static_types import Array, ArraySpec, R, TensorSpec
from poolservice_client._response.torch_tensors import Numpy, Returns, Tensor, Torch, as_tensors, wants_torch


class BlockingPool(ABC):
    """The `pool` method of PoolClient."""

    @abstractmethod
    def _call(self, query: PoolQuery, x: Any, timeout: float | None, *, execution: bool = False) -> Any:
        """Send `x` with the query and return the result."""

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
    @overload
    def pool(
        self,
        x: Poolable,
        specs: None = None,
        *,
        backbone: str,
        returns: Numpy = "numpy",
        execution: Literal[False] = False,
        **options: Unpack[BackboneOptions],
    ) -> Array: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: None = None,
        *,
        backbone: str,
        returns: Numpy = "numpy",
        execution: Literal[True],
        **options: Unpack[BackboneOptions],
    ) -> PoolResponse[Array]: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: None = None,
        *,
        backbone: str,
        returns: Torch,
        execution: Literal[False] = False,
        **options: Unpack[BackboneOptions],
    ) -> Tensor: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: None = None,
        *,
        backbone: str,
        returns: Torch,
        execution: Literal[True],
        **options: Unpack[BackboneOptions],
    ) -> PoolResponse[Tensor]: ...
    @overload
    def pool(
        self,
        x: Poolable,
        specs: None = None,
        *,
        backbone: str,
        returns: Returns = "numpy",
        execution: bool = False,
        **options: Unpack[BackboneOptions],
    ) -> Any: ...
    def pool(
        self,
        x: Any,
        specs: PoolSpec[Any] | Sequence[PoolSpec[Any]] | None = None,
        *,
        backbone: str | None = None,
        tap: str | None = None,
        output: Output = "tensor",
        normalize: bool = False,
        dtype: Literal["float16"] | None = None,
        color_mode: ColorMode | None = None,
        layout: Layout | None = None,
        timeout: float | None = None,
        execution: bool = False,
        returns: Returns = "numpy",
    ) -> Any:
        """Pool a tensor or an image with one spec, or with several at once.

        Args:
            x: a tensor of shape (C, *) or (N, C, *), or an image. Tensors: a numpy array of any layout, a torch
                tensor, an object with `__dlpack__` or `__array__`, nested lists of numbers, the path of an .npy file.
                Images: a path, the bytes of an encoded file, a PIL image. An image is turned upright and becomes
                float32 of shape (channels, height, width) in [0, 1].
            specs: how to pool, such as `MaxPool2d(2)`, or a list of 1 to 16 specs. `x` is sent and decoded once. With a
                backbone, None or an empty list returns the output itself.
            backbone: the name of a backbone of the server (see `server_info`). `x` is then the input of this network,
                and an output of it is pooled: for an image, which the server preprocesses, a feature map (C, H, W) or
                a vector (D,). A tensor is preprocessed already: float32 of shape (C, H, W) or (N, C, H, W) with the
                sizes of `BackboneInfo.input_shape`. Default: none; `x` itself is pooled.
            tap: the name of the output of the backbone, in `BackboneInfo.outputs`. A vector takes no specs. Default:
                the backbone's default output.
            output: "tensor" keeps the rank of `x`; "features" flattens each result to shape (D,), or (N, D) if `x` is
                batched.
            normalize: divide each feature vector by its Euclidean norm. Needs `output="features"`.
            dtype: "float16" converts floating-point results to float16. Default: the layer's result type, which is
                the dtype of `x`, and float32 for means of integers.
            color_mode: the channels that an image is decoded to: "RGB" (the default), "GRAY" or "RGBA". Not with a
                backbone.
            layout: "HWC" if `x` is a tensor of shape (H, W, C) or (N, H, W, C) for 2-D specs: its channels are moved
                to the front before it is sent, and the result has them there. "CHW" if they are first. Default: they
                are first, with a warning for a tensor that looks like "HWC". Images are not affected.
            timeout: seconds until the call must end. Default: the client's timeout.
            execution: also return where and how the request ran.
            returns: "numpy" for arrays, or "torch" for torch tensors, which share the arrays' memory and keep
                bfloat16.

        Returns:
            An array for one spec or none, or (array, indices) for a spec with `return_indices=True`; for a list of
            specs, a list of these in the same order, or of the output itself if the list is empty. With
            `execution=True`, a PoolResponse of that and the Execution. The arrays or tensors are writable and own their
            memory.

        Raises:
            InvalidRequest: `x`, a spec or an option is invalid, or a message is too large.
            Overloaded: the server's queue is full.
            DeadlineExceeded: the call did not end within its timeout.
            Unauthenticated: the server rejected the credentials.
            Unavailable: no server can be reached.
            ServerError: the server failed.
            PoolError: the client is closed, or gRPC cannot be used in this forked process.
            OSError: a file cannot be read.

        Example:
            >>> y = client.pool(x, MaxPool2d(2))
            >>> y, indices = client.pool(x, MaxPool2d(2, return_indices=True))
            >>> vector = client.pool("cat.jpg", GlobalAvgPool2d(), output="features", normalize=True)
            >>> embedding = client.pool("cat.jpg", GlobalAvgPool2d(), backbone="mobilenetv2", output="features")
        """
        query = PoolQuery.of(
            specs,
            output=output,
            normalize=normalize,
            dtype=dtype,
            color_mode=color_mode,
            layout=layout,
            backbone=backbone,
            tap=tap,
        )
        torch = wants_torch(returns)
        result = self._call(query, x, timeout, execution=execution)
        return as_tensors(result) if torch else result
