"""Requests for a backbone: an image is scanned first, and decoded and preprocessed later; a tensor needs neither."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice_server import images
from poolservice_server.backbone_stage import BackboneInput
from poolservice_server.backbones.backbone import Backbone, Backbones
from poolservice_server.backbones.preprocessing import check_size, preprocessing_cost, region, to_samples
from poolservice_server.batcher import Completed
from poolservice_server.core.backbone_counts import BackboneCounts
from poolservice_server.core.backbone_head import BackboneHead
from poolservice_server.core.backbone_plan import BackbonePlan, BackbonePlans
from poolservice_server.core.backbone_response import PreprocessedImage, encode_response
from poolservice_server.core.plan import Head
from poolservice_server.images import CHANNELS, Decode
from poolservice_server.images.decode_cost import decode_cost
from poolservice_server.stage_cost import Cost
from poolservice_server.stop import Stop, WorkStopped

# Checking that a value is finite, and copying it.
_STEPS_PER_VALUE = 0.5


class BackboneRequests:
    """Makes the requests for the backbones of a server.

    Args:
        backbones: the backbones.
        seconds_per_step: the time of one step of the estimates on this machine.
        is_batched: returns True if the requests for a backbone of this name are batched now. Otherwise the thread that
            prepares a payload runs it, too.
        max_pixels: largest number of pixels that the header of an image may declare.
        decode: decodes a scanned image.

    Attributes:
        counts: counts of what the backbones have computed.
        is_batched, max_pixels, decode: as the arguments.
    """

    def __init__(
        self,
        backbones: Backbones,
        seconds_per_step: float,
        *,
        is_batched: Callable[[str], bool],
        max_pixels: int,
        decode: Decode,
    ) -> None:
        self.counts = BackboneCounts()
        self.is_batched = is_batched
        self.max_pixels = max_pixels
        self.decode = decode
        self._plans = BackbonePlans(backbones, seconds_per_step)

    def request(self, head: Head, wanted: BackboneHead, data: memoryview) -> "BackboneRequest":
        """Return a request whose payload is not prepared yet.

        Args:
            head: the request without its payload's bytes.
            wanted: its backbone.
            data: the payload's bytes.

        Raises:
            InvalidRequest: something is wrong; the error names the field.
        """
        plan = self._plans.plan(head, wanted)
        backbone = self._plans.backbone(wanted)
        if wanted.shape is None:
            return BackboneImage(self, plan, backbone, data)
        return BackboneTensor(self, plan, backbone, data, wanted.shape)


class BackboneRequest(ABC):
    """A request whose payload is not prepared yet.

    Attributes:
        plan: what the request asks for.
        is_unbatched: whether the thread that prepares the payload runs it, too.
        prepare_steps: the estimated work of the preparation.
        cost: the estimated cost of the whole request.
        is_image: True for an image, False for a tensor.
        preprocess_seconds: the part of its preparation that resizing and cropping took; 0 for a tensor.
    """

    __slots__ = ("_backbone", "_requests", "cost", "is_unbatched", "plan", "prepare_steps", "preprocess_seconds")

    plan: BackbonePlan
    is_unbatched: bool
    prepare_steps: float
    cost: Cost
    is_image = False

    def __init__(self, requests: BackboneRequests, plan: BackbonePlan, backbone: Backbone) -> None:
        self.preprocess_seconds = 0.0
        self._requests = requests
        self._backbone = backbone
        self.plan = plan
        self.is_unbatched = not requests.is_batched(backbone.name)

    @abstractmethod
    def prepare(self, stop: Stop) -> BackboneInput:
        """Return the payload for the device. Call it once, on any thread.

        Args:
            stop: returns True once nobody waits for the response.

        Raises:
            InvalidRequest: the payload is damaged or incomplete, or has values that are not finite.
            WorkStopped: `stop` returned True.
        """

    async def build(self, completed: Completed, executor: Executor) -> bytes:
        """Return the encoded PoolResponse, and count the request.

        Args:
            completed: the request's outcome; its result is a `BackboneResult`.
            executor: where PNG images and large results are encoded.
        """
        self._requests.counts.count(self._backbone.name, self.plan.samples_shape[0], completed)
        encode = partial(encode_response, self.plan.response_builder, self._backbone, completed, self._image())
        if self.plan.response_builder.on_thread:
            return await asyncio.get_running_loop().run_in_executor(executor, encode)
        return encode()

    def count_failure(self) -> None:
        """Count the request, for which the network could give no result."""
        self._requests.counts.failures[self._backbone.name] += 1

    def _image(self) -> PreprocessedImage | None:
        """Return what the response says about the image that was prepared; None for a tensor."""
        return None


class BackboneImage(BackboneRequest):
    """A request with an image that has been scanned but not decoded.

    Raises:
        InvalidRequest: the file cannot be read, is too large, or cannot be preprocessed.
    """

    __slots__ = ("_scan",)

    is_image = True

    def __init__(self, requests: BackboneRequests, plan: BackbonePlan, backbone: Backbone, data: memoryview) -> None:
        super().__init__(requests, plan, backbone)
        self._scan = images.scan(data, max_pixels=requests.max_pixels)
        header = self._scan.header
        height, width = header.upright
        mode = backbone.input.color_mode
        check_size(width, height, backbone.input, backbone.preprocessing)
        decode_steps, decode_bytes = decode_cost(self._scan, mode)
        steps, nbytes = preprocessing_cost(width, height, backbone.input, backbone.preprocessing)
        self.prepare_steps = decode_steps + steps
        planes_bytes = CHANNELS[mode] * height * width * header.dtype.itemsize
        run_steps, peak_bytes, response_bytes = plan.cost
        peak_bytes = max(decode_bytes, planes_bytes + nbytes, peak_bytes)
        self.cost = Cost(run_steps + self.prepare_steps, len(data) + peak_bytes, response_bytes)

    def prepare(self, stop: Stop) -> BackboneInput:
        """Decode, resize and crop the image."""
        requests, backbone = self._requests, self._backbone
        # Resizing reads interleaved pixels.
        planes = requests.decode(
            self._scan, backbone.input.color_mode, max_pixels=requests.max_pixels, interleaved=True, stop=stop
        )
        if stop():
            raise WorkStopped
        started = time.perf_counter()
        samples = to_samples(planes, backbone.input, backbone.preprocessing, stop)
        self.preprocess_seconds = time.perf_counter() - started
        if stop():
            raise WorkStopped
        return BackboneInput(samples, self.plan.specs, self.plan.classes)

    def _image(self) -> PreprocessedImage:
        backbone = self._backbone
        height, width = self._scan.header.upright
        return PreprocessedImage(self.preprocess_seconds, region(width, height, backbone.input, backbone.preprocessing))


class BackboneTensor(BackboneRequest):
    """A request with a tensor that its caller has preprocessed.

    Raises:
        InvalidRequest: there are more or fewer bytes than the shape takes.
    """

    __slots__ = ("_samples",)

    def __init__(
        self,
        requests: BackboneRequests,
        plan: BackbonePlan,
        backbone: Backbone,
        data: memoryview,
        shape: tuple[int, ...],
    ) -> None:
        if len(data) != plan.payload_bytes:
            raise InvalidRequest(
                f"has {len(data)} bytes; shape {list(shape)} of float32 takes {plan.payload_bytes}",
                field="tensor.data",
            )
        super().__init__(requests, plan, backbone)
        self._samples: np.ndarray = np.ndarray(plan.samples_shape, np.dtype("<f4"), data)
        self.prepare_steps = _STEPS_PER_VALUE * self._samples.size
        run_steps, peak_bytes, response_bytes = plan.cost
        self.cost = Cost(run_steps + self.prepare_steps, plan.payload_bytes + peak_bytes, response_bytes)

    def prepare(self, stop: Stop) -> BackboneInput:
        """Check the values, and align them in memory."""
        for number, sample in enumerate(self._samples):
            if stop():
                raise WorkStopped
            # A minimum and a maximum need no memory, and are NaN if a value is.
            if not (np.isfinite(sample.min()) and np.isfinite(sample.max())):
                raise InvalidRequest(
                    f"must have finite values only; sample {number} has NaN or infinite ones", field="tensor.data"
                )
        # They can be anywhere in the message, and engines may read them with instructions that need aligned memory.
        samples = np.require(self._samples, requirements="A")
        return BackboneInput(samples, self.plan.specs, self.plan.classes)
