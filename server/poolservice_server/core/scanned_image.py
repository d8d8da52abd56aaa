"""Requests whose payload is an encoded image: sized by the file's header first, decoded later."""

from concurrent.futures import Executor

import numpy as np

from poolservice_server import images
from poolservice_server.batcher import Completed
from poolservice_server.core.plan import Head, plan_image
from poolservice_server.images import CHANNELS, Decode
from poolservice_server.images.decode_cost import decode_cost
from poolservice_server.stage_cost import Cost
from poolservice_server.stop import Stop


class ImageRequest:
    """A request for an image that has been scanned but not decoded.

    Args:
        head: the request without its payload's bytes.
        data: the encoded file.
        max_pixels: largest number of pixels that the file's header may declare.
        decode: decodes a scanned image.

    Attributes:
        plan: what the request asks for, at the image's declared size.
        is_unbatched: False; the batcher decides.
        prepare_steps: the estimated work of decoding the image.
        cost: the estimated cost of the whole request, decoding included.
        is_image: True.
        preprocess_seconds: 0; an image is only decoded.

    Raises:
        InvalidRequest: the file cannot be read, is too large, or does not suit the specs.
    """

    __slots__ = ("_decode", "_head", "_max_pixels", "_scan", "cost", "plan", "prepare_steps")

    is_unbatched = False
    is_image = True
    preprocess_seconds = 0.0

    def __init__(self, head: Head, data: memoryview, *, max_pixels: int, decode: Decode) -> None:
        self._decode = decode
        self._head = head
        self._max_pixels = max_pixels
        self._scan = images.scan(data, max_pixels=max_pixels)
        header = self._scan.header
        self.plan = plan_image(head.specs, head.output, CHANNELS[head.color_mode], *header.upright, header.dtype)
        self.prepare_steps, decode_bytes = decode_cost(self._scan, head.color_mode)
        steps, peak_bytes, response_bytes = self.plan.cost
        self.cost = Cost(steps + self.prepare_steps, len(data) + max(decode_bytes, peak_bytes), response_bytes)

    def prepare(self, stop: Stop) -> np.ndarray:
        """Return the image's planes, in the shape that the plan expects. Call it once, on any thread.

        Args:
            stop: returns True once nobody waits for the response.

        Raises:
            InvalidRequest: the file is damaged or incomplete.
            WorkStopped: `stop` returned True.
        """
        planes = self._decode(
            self._scan,
            self._head.color_mode,
            max_pixels=self._max_pixels,
            interleaved=self._head.takes_interleaved,
            stop=stop,
        )
        # A one-dimensional operator pools each row of the image, so that its planes are rows.
        return planes.reshape(self.plan.planes_shape)

    async def build(self, completed: Completed, executor: Executor) -> bytes:
        """Return the encoded PoolResponse; see `ResponseBuilder.build`."""
        return await self.plan.response_builder.build(completed, executor)
