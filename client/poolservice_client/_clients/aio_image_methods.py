"""The `pool_image` and `explain` methods of the asyncio client."""

# ruff: noqa: ASYNC109 - the timeout is sent with the call, as its gRPC deadline

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice_client._backbone_info import find_backbone
from poolservice_client._clients.base import documented_as
from poolservice_client._clients.blocking_image_methods import BlockingImages
from poolservice_client._request.backbone_arguments import class_indices, has_names
from poolservice_client._request.files import path_of, with_path
from poolservice_client._request.layout import Layout
from poolservice_client._request.options import ColorMode, ImageOptions
from poolservice_client._request.payload import Poolable, is_slow
from poolservice_client._request.query import PoolQuery, explain_query
from poolservice_client._request.reader_threads import reader_threads
from poolservice_client._response.explanation import Explanation
from poolservice_client._response.explanation_reader import read_explanation
from poolservice_client._server_info import ServerInfo
from poolservice_client._settings.settings import Settings, remaining
from poolservice_client._transport.aio import AsyncTransport
from poolservice_client._transport.methods import POOL

if TYPE_CHECKING:
    import PIL.Image


class AsyncImages(ABC):
    """The methods of AsyncPoolClient that return images and maps over images."""

    _settings: Settings
    _transport: AsyncTransport

    @abstractmethod
    async def _call(self, query: PoolQuery, x: Any, timeout: float | None, *, execution: bool = False) -> Any:
        """Send `x` with the query and return the result."""

    @abstractmethod
    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Return the server's description."""

    @overload
    async def pool_image(self, x: Poolable, specs: PoolSpec, **options: Unpack[ImageOptions]) -> "PIL.Image.Image": ...
    @overload
    async def pool_image(
        self, x: Poolable, specs: Sequence[PoolSpec], **options: Unpack[ImageOptions]
    ) -> "list[PIL.Image.Image]": ...
    @documented_as(BlockingImages.pool_image)
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

    @documented_as(BlockingImages.explain)
    async def explain(
        self,
        x: Poolable,
        *,
        backbone: str,
        top: int = 3,
        classes: Sequence[int | str] = (),
        maps: bool = True,
        layout: Layout | None = None,
        timeout: float | None = None,
    ) -> Explanation:
        """Return the classes that a backbone sees in an image; see PoolClient.explain."""
        seconds = self._settings.call_timeout(timeout)
        labels: Sequence[str] = ()
        if has_names(classes):
            started = time.monotonic()
            labels = find_backbone((await self.server_info(timeout=timeout)).backbones, backbone).labels
            seconds = remaining(seconds, started)
        query = explain_query(backbone, top, class_indices(classes, labels), maps, layout)
        try:
            payload = await reader_threads.run(query.payload_of, x) if is_slow(x) else query.payload_of(x)
            request = query.template_for(payload).request(payload.data)
            response = await self._transport.call(POOL, request, seconds)
            # Reading the size of an image may decode it.
            return await reader_threads.run(read_explanation, response, query, payload)
        except InvalidRequest as error:
            raise with_path(error, path_of(x)) from error.__cause__
