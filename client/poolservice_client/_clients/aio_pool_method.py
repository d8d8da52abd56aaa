"""The `pool` and `pool_image` methods of the asyncio client, with their result types for type checkers."""

# ruff: noqa: ASYNC109 - the timeout is sent with the call, as its gRPC deadline

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from poolservice.specs import PoolSpec
from poolservice_client._clients.base import documented_as
from poolservice_client._clients.blocking_pool_method import BlockingPoolMethods
from poolservice_client._request.layout import Layout
from poolservice_client._request.payload import Poolable
from poolservice_client._request.query import ColorMode, ImageOptions, Output, PoolOptions, PoolQuery
from poolservice_client._response.reader import PoolResponse
from poolservice_client._response.static_types import ArraySpec, R, TensorSpec
from poolservice_client._response.torch_tensors import Numpy, Returns, Torch, as_tensors, wants_torch

if TYPE_CHECKING:
    import PIL.Image


class AsyncPoolMethods(ABC):
    """The pooling methods of AsyncPoolClient."""

    @abstractmethod
    async def _call(self, query: PoolQuery, x: Any, timeout: float | None, *, execution: bool = False) -> Any:
        """Send `x` with the query and return the result."""

    @overload
    async def pool(
        self,
        x: Poolable,
        specs: ArraySpec[R],
        *,
        returns: Numpy = "numpy",
        execution: Literal[False] = False,
        **options: Unpack[PoolOptions],
    ) -> R: ...
    @overload
    async def pool(
        self,
        x: Poolable,
        specs: ArraySpec[R],
        *,
        returns: Numpy = "numpy",
        execution: Literal[True],
        **options: Unpack[PoolOptions],
    ) -> PoolResponse[R]: ...
    @overload
    async def pool(
        self,
        x: Poolable,
        specs: Sequence[ArraySpec[R]],
        *,
        returns: Numpy = "numpy",
        execution: Literal[False] = False,
        **options: Unpack[PoolOptions],
    ) -> list[R]: ...
    @overload
    async def pool(
        self,
        x: Poolable,
        specs: Sequence[ArraySpec[R]],
        *,
        returns: Numpy = "numpy",
        execution: Literal[True],
        **options: Unpack[PoolOptions],
    ) -> PoolResponse[list[R]]: ...
    @overload
    async def pool(
        self,
        x: Poolable,
        specs: TensorSpec[R],
        *,
        returns: Torch,
        execution: Literal[False] = False,
        **options: Unpack[PoolOptions],
    ) -> R: ...
    @overload
    async def pool(
        self,
        x: Poolable,
        specs: TensorSpec[R],
        *,
        returns: Torch,
        execution: Literal[True],
        **options: Unpack[PoolOptions],
    ) -> PoolResponse[R]: ...
    @overload
    async def pool(
        self,
        x: Poolable,
        specs: Sequence[TensorSpec[R]],
        *,
        returns: Torch,
        execution: Literal[False] = False,
        **options: Unpack[PoolOptions],
    ) -> list[R]: ...
    @overload
    async def pool(
        self,
        x: Poolable,
        specs: Sequence[TensorSpec[R]],
        *,
        returns: Torch,
        execution: Literal[True],
        **options: Unpack[PoolOptions],
    ) -> PoolResponse[list[R]]: ...
    @overload
    async def pool(
        self,
        x: Poolable,
        specs: PoolSpec | Sequence[PoolSpec],
        *,
        returns: Returns = "numpy",
        execution: bool = False,
        **options: Unpack[PoolOptions],
    ) -> Any: ...
    @documented_as(BlockingPoolMethods.pool)
    async def pool(
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
        """Pool a tensor or an image. Arguments, result and errors are those of `PoolClient.pool`."""
        query = PoolQuery.of(
            specs, output=output, normalize=normalize, dtype=dtype, color_mode=color_mode, layout=layout
        )
        torch = wants_torch(returns)
        result = await self._call(query, x, timeout, execution=execution)
        return as_tensors(result) if torch else result

    @overload
    async def pool_image(self, x: Poolable, specs: PoolSpec, **options: Unpack[ImageOptions]) -> "PIL.Image.Image": ...
    @overload
    async def pool_image(
        self, x: Poolable, specs: Sequence[PoolSpec], **options: Unpack[ImageOptions]
    ) -> "list[PIL.Image.Image]": ...
    @documented_as(BlockingPoolMethods.pool_image)
    async def pool_image(
        self,
        x: Any,
        specs: PoolSpec | Sequence[PoolSpec],
        *,
        color_mode: ColorMode | None = None,
        layout: Layout | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Pool an image and return an image. Arguments and errors are those of `PoolClient.pool_image`."""
        query = PoolQuery.of(specs, output="image", color_mode=color_mode, layout=layout)
        return await self._call(query, x, timeout)
