"""The plan for a request that a backbone processes: what it pools, what it returns, and what it costs."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice_server.backbone_stage import BackboneStage, ClassChoice
from poolservice_server.backbones.backbone import Backbone, Backbones, Output
from poolservice_server.cache import cached
from poolservice_server.core.backbone_checks import (
    check_specs,
    checked_classes,
    count_samples,
    described,
    find_backbone,
    find_output,
)
from poolservice_server.core.backbone_head import BackboneHead
from poolservice_server.core.output_options import OutputOptions
from poolservice_server.core.plan import MAX_INLINE_STEPS, Head, held_parameter_bytes, result_shape
from poolservice_server.core.response_builder import MAX_INLINE_BYTES, ResponseBuilder
from poolservice_server.core.results_plan import PlannedResult, plan_results
from poolservice_server.pool_stage import BatchKey, PoolStage
from poolservice_server.stage_cost import Cost, stage_cost

_FLOAT32 = np.dtype(np.float32)
_UINT8 = np.dtype(np.uint8)

# The bytes of a class in a response besides its label and its map, and those of the map's head.
_CLASS_BYTES = 32
_MAP_BYTES = 32


class Tap(NamedTuple):
    """The output of a backbone that a request pools, with everything that its plan depends on.

    Attributes:
        backbone: the name of the backbone.
        name: the name of the output.
        shape: the shape of the output for one sample.
        input_shape: the shape of a preprocessed sample.
        map_shape: the shape of a class activation map; empty without a head.
        label_bytes: the size of the longest label.
        steps: the work of the backbone for one sample.
    """

    backbone: str
    name: str
    shape: tuple[int, ...]
    input_shape: tuple[int, int, int]
    map_shape: tuple[int, ...]
    label_bytes: int
    steps: float

    @property
    def described(self) -> str:
        """The output and its backbone, for errors."""
        return described(self.backbone, self.name)


@dataclass(frozen=True, slots=True)
class BackbonePlan:
    """The plan for a request that a backbone processes.

    Attributes:
        specs: how the output is pooled.
        classes: the classes that are wanted; None for none.
        samples_shape: the shape of the preprocessed samples, (N, C, H, W).
        payload_bytes: the size of these samples.
        batch_key: requests with equal keys may run in one batch.
        response_builder: builds the results.
        nbytes: size of the samples and the results, in which the sizes of batches are counted.
        run_steps: the estimated work of the device.
        cost: the estimated cost of the whole request, without decoding and preprocessing.
    """

    specs: tuple[PoolSpec, ...]
    classes: ClassChoice | None
    samples_shape: tuple[int, int, int, int]
    payload_bytes: int
    batch_key: BatchKey
    response_builder: ResponseBuilder
    nbytes: int
    run_steps: float
    cost: Cost


class BackbonePlans:
    """Makes the plans for the backbones of a server.

    Args:
        backbones: the backbones.
        seconds_per_step: the time of one step of the estimates on this machine.
    """

    def __init__(self, backbones: Backbones, seconds_per_step: float) -> None:
        self._backbones = backbones
        self._taps = {
            (backbone.name, name): _tap(backbone, name, output, seconds_per_step)
            for backbone in backbones.serving.values()
            for name, output in backbone.outputs.items()
        }

    def backbone(self, wanted: BackboneHead) -> Backbone:
        """Return the backbone that a request names.

        Raises:
            InvalidRequest: there is none, or it does not serve.
        """
        return find_backbone(wanted.name, self._backbones)

    def plan(self, head: Head, wanted: BackboneHead) -> BackbonePlan:
        """Return the plan for a request.

        Args:
            head: the request.
            wanted: its backbone.

        Raises:
            InvalidRequest: there is no such backbone or output, or specs, classes or tensor do not suit it.
        """
        backbone = find_backbone(wanted.name, self._backbones)
        name = find_output(wanted.tap, backbone)
        samples = count_samples(wanted, backbone)
        classes = checked_classes(wanted.classes, backbone, samples)
        check_specs(head.specs, name, backbone)
        if classes is not None and not head.specs:
            # Only the classes are wanted, for which the network runs to the feature map of the head.
            name = backbone.head_output
        is_image = wanted.shape is None
        has_batch_dimension = wanted.shape is not None and len(wanted.shape) == 4
        tap = self._taps[backbone.name, name]
        return _plan(head.specs, head.output, tap, classes, samples, is_image, has_batch_dimension)


@cached("backbone_plans")
def _plan(
    specs: tuple[PoolSpec, ...],
    output: OutputOptions,
    tap: Tap,
    classes: ClassChoice | None,
    samples: int,
    is_image: bool,
    has_batch_dimension: bool,
) -> BackbonePlan:
    dtype = _UINT8 if is_image else _FLOAT32
    shape = (samples, *tap.shape) if has_batch_dimension else tap.shape
    planned = []
    for index, spec in enumerate(specs):
        pooled = _pooled_shape(spec, shape, tap, path=f"specs[{index}].{spec.operator}")
        has_indices = bool(getattr(spec, "return_indices", False))
        planned.append(PlannedResult(type(spec).__name__, 2, pooled, _FLOAT32, has_indices))
    if not specs and classes is None:
        planned.append(PlannedResult(tap.described, 2, shape, _FLOAT32))
    class_bytes = 0
    if classes is not None:
        map_bytes = _MAP_BYTES + math.prod(tap.map_shape) * _FLOAT32.itemsize if classes.activation_maps else 0
        class_bytes = (classes.top + len(classes.classes)) * (_CLASS_BYTES + tap.label_bytes + map_bytes)
    results = plan_results(output, planned, has_batch_dimension=has_batch_dimension, further_bytes=class_bytes)
    pooling_steps, pooling_bytes = 0.0, 0
    if specs:
        channels, *sides = tap.shape
        pooling_steps, pooling_bytes = stage_cost(PoolStage.of(specs, channels), (samples * channels, *sides), _FLOAT32)
    samples_shape = (samples, *tap.input_shape)
    elements = math.prod(samples_shape)
    payload_bytes = elements * dtype.itemsize
    output_bytes = samples * math.prod(tap.shape) * _FLOAT32.itemsize
    # The activations of the network are not part of a request's memory: only as many samples run at a time as there are
    # cores, however many requests wait. Counting them for each request refused the 60th small image of a caller.
    run_bytes = output_bytes + pooling_bytes
    parameter_bytes = held_parameter_bytes(specs)
    run_steps = samples * tap.steps + pooling_steps
    return BackbonePlan(
        specs=specs,
        classes=classes,
        samples_shape=samples_shape,
        payload_bytes=payload_bytes,
        batch_key=BatchKey(BackboneStage(tap.backbone, tap.name), tap.input_shape[1:], dtype),
        response_builder=ResponseBuilder(
            output,
            results.formats,
            on_thread=results.encoding_steps > MAX_INLINE_STEPS or class_bytes > MAX_INLINE_BYTES,
        ),
        nbytes=payload_bytes + parameter_bytes + results.result_bytes,
        run_steps=run_steps,
        cost=Cost(
            run_steps + results.encoding_steps,
            payload_bytes + parameter_bytes + max(run_bytes, results.peak_bytes),
            results.response_bytes,
        ),
    )


def _tap(backbone: Backbone, name: str, output: Output, seconds_per_step: float) -> Tap:
    return Tap(
        backbone=backbone.name,
        name=name,
        shape=output.shape,
        input_shape=backbone.input_shape,
        map_shape=backbone.outputs[backbone.head_output].shape[1:] if backbone.head_output else (),
        label_bytes=max((len(label.encode()) for label in backbone.labels), default=0),
        steps=backbone.seconds / seconds_per_step,
    )


def _pooled_shape(spec: PoolSpec, shape: tuple[int, ...], tap: Tap, *, path: str) -> tuple[int, ...]:
    try:
        return result_shape(spec, shape, path=path, payload="tensor.shape")
    except InvalidRequest as error:
        raise InvalidRequest(
            f"{error.reason}; the input is {tap.described}, of shape {list(tap.shape)}", field=error.field
        ) from None
