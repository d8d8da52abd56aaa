"""The `pool_image` and `explain` methods of the blocking client."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice_client._backbone_info import find_backbone
from poolservice_client._request.backbone_arguments import class_indices, has_names
from poolservice_client._request.files import path_of, with_path
from poolservice_client._request.layout import Layout
from poolservice_client._request.options import ColorMode, ImageOptions
from poolservice_client._request.payload import Poolable
from poolservice_client._request.query import PoolQuery, explain_query
from poolservice_client._response.explanation import Explanation
from poolservice_client._response.explanation_reader import read_explanation
from poolservice_client._server_info import ServerInfo
from poolservice_client._settings.settings import Settings, remaining
from poolservice_client._transport.blocking import Transport
from poolservice_client._transport.methods import POOL

if TYPE_CHECKING:
    import PIL.Image


class BlockingImages(ABC):
    """The methods of PoolClient that return images and maps over images."""

    _settings: Settings
    _transport: Transport

    @abstractmethod
    def _call(self, query: PoolQuery, x: Any, timeout: float | None, *, execution: bool = False) -> Any:
        """Send `x` with the query and return the result."""

    @abstractmethod
    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Return the server's description."""

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

    def explain(
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
        """Return the classes that a backbone sees in an image, and maps of where it sees them.

        Args:
            x: an image, or a preprocessed tensor (C, H, W) or (1, C, H, W); see `pool`.
            backbone: the name of a backbone with labels; see `server_info`.
            top: the number of classes with the highest scores, 0 to 100, the highest first.
            classes: up to 100 more classes, by index or by name. One that is among the `top` ones is not repeated. A
                name costs a call of `server_info`; one that several classes have is an error.
            maps: whether to compute a class activation map for each class.
            layout: as in `pool`, for a tensor.
            timeout: seconds until the call must end. Default: the client's timeout.

        Returns:
            An Explanation: labels, scores and maps. Its `heatmaps` are as large as the image.

        Raises:
            InvalidRequest: an argument is invalid, or the backbone has no labels.
            PoolError, OSError: see `pool`.

        Example:
            >>> explanation = client.explain("cat.jpg", backbone="mobilenetv2", top=3)
        """
        seconds = self._settings.call_timeout(timeout)
        labels: Sequence[str] = ()
        if has_names(classes):
            started = time.monotonic()
            labels = find_backbone(self.server_info(timeout=timeout).backbones, backbone).labels
            seconds = remaining(seconds, started)
        query = explain_query(backbone, top, class_indices(classes, labels), maps, layout)
        try:
            payload = query.payload_of(x)
            request = query.template_for(payload).request(payload.data)
            return read_explanation(self._transport.call(POOL, request, seconds), query, payload)
        except InvalidRequest as error:
            raise with_path(error, path_of(x)) from error.__cause__
