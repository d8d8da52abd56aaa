"""The `pool` and `pool_image` methods of the blocking client, with their result types for type checkers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from poolservice.specs import PoolSpec
from poolservice_client._request.layout import Layout
from poolservice_client._request.payload import Poolable
from poolservice_client._request.query import ColorMode, ImageOptions, Output, PoolOptions, PoolQuery
from poolservice_client._response.reader import PoolResponse
from poolservice_client._response.static_types import ArraySpec, R, TensorSpec
from poolservice_client._response.torch_tensors import Numpy, Returns, Torch, as_tensors, wants_torch

if TYPE_CHECKING:
    import PIL.Image


class BlockingPoolMethods(ABC):
    """The pooling methods of PoolClient."""

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
    def pool(
        self,
        x: Any,
        specs: PoolSpec[Any] | Sequence[PoolSpec[Any]],
        *,
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
            specs: how to pool, such as `MaxPool2d(2)`, or a list of 1 to 16 specs. `x` is sent and decoded once.
            output: "tensor" keeps the rank of `x`; "features" flattens each result to shape (D,), or (N, D) if `x` is
                batched.
            normalize: divide each feature vector by its Euclidean norm. Needs `output="features"`.
            dtype: "float16" converts floating-point results to float16. Default: the layer's result type, which is
                the dtype of `x`, and float32 for means of integers.
            color_mode: the channels that an image is decoded to: "RGB" (the default), "GRAY" or "RGBA".
            layout: "HWC" if `x` is a tensor of shape (H, W, C) or (N, H, W, C) for 2-D specs: its channels are moved
                to the front before it is sent, and the result has them there. "CHW" if they are first. Default: they
                are first, with a warning for a tensor that looks like "HWC". Images are not affected.
            timeout: seconds until the call must end. Default: the client's timeout.
            execution: also return where and how the request ran.
            returns: "numpy" for arrays, or "torch" for torch tensors, which share the arrays' memory and keep
                bfloat16.

        Returns:
            An array for one spec, or (array, indices) for a spec with `return_indices=True`; for a list of specs, a
            list of these in the same order. With `execution=True`, a PoolResponse of that and the Execution. The
            arrays or tensors are writable and own their memory.

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
        """
        query = PoolQuery.of(
            specs, output=output, normalize=normalize, dtype=dtype, color_mode=color_mode, layout=layout
        )
        torch = wants_torch(returns)
        result = self._call(query, x, timeout, execution=execution)
        return as_tensors(result) if torch else result

    @overload
    def pool_image(self, x: Poolable, specs: PoolSpec, **options: Unpack[ImageOptions]) -> "PIL.Image.Image": ...
    @overload
    def pool_image(
        self, x: Poolable, specs: Sequence[PoolSpec], **options: Unpack[ImageOptions]
    ) -> "list[PIL.Image.Image]": ...
    def pool_image(
        self,
        x: Any,
        specs: PoolSpec | Sequence[PoolSpec],
        *,
        color_mode: ColorMode | None = None,
        layout: Layout | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Pool an image, or a tensor that represents one, and return an image.

        Args:
            x: see `pool`. A tensor must be (C, H, W) with 1, 3 or 4 channels, and uint8 or floats in [0, 1].
            specs: a 2-D spec without `return_indices`, or a list of them.
            color_mode: the channels that an image is decoded to: "RGB" (the default), "GRAY" or "RGBA".
            layout: as in `pool`, for a tensor.
            timeout: seconds until the call must end. Default: the client's timeout.

        Returns:
            A PIL image of mode L, RGB or RGBA for one spec; a list of them for a list of specs.

        Raises:
            PoolError, OSError: see `pool`.

        Example:
            >>> thumbnail = client.pool_image("cat.jpg", AdaptiveAvgPool2d(64))
        """
        query = PoolQuery.of(specs, output="image", color_mode=color_mode, layout=layout)
        return self._call(query, x, timeout)
