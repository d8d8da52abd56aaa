"""The `pool` method of the asyncio client, with its result types for type checkers."""

# ruff: noqa: ASYNC109 - the timeout is sent with the call, as its gRPC deadline

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Unpack, overload

from poolservice.specs import PoolSpec
from poolservice_client._clients.base import documented_as
from poolservice_client._clients.blocking_pool_method import BlockingPool
from poolservice_client._request.layout import Layout
from poolservice_client._request.options import BackboneOptions, ColorMode, Output, PoolOptions
from poolservice_client._request.payload import Poolable
from poolservice_client._request.query import PoolQuery
from poolservice_client._response.reader import PoolResponse
from poolservice_client._response.static_types import Array, ArraySpec, R, TensorSpec
from poolservice_client._response.torch_tensors import Numpy, Returns, Tensor, Torch, as_tensors, wants_torch


class AsyncPool(ABC):
    """The `pool` method of AsyncPoolClient."""

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
    @overload
    async def pool(
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
    async def pool(
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
    async def pool(
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
    async def pool(
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
    async def pool(
        self,
        x: Poolable,
        specs: None = None,
        *,
        backbone: str,
        returns: Returns = "numpy",
        execution: bool = False,
        **options: Unpack[BackboneOptions],
    ) -> Any: ...
    @documented_as(BlockingPool.pool)
    async def pool(
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
        """Pool a tensor or an image. Arguments, result and errors are those of `PoolClient.pool`."""
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
        result = await self._call(query, x, timeout, execution=execution)
        return as_tensors(result) if torch else result
