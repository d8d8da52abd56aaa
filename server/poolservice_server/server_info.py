"""The response to GetServerInfo: version, operators, limits, backbones, and the devices' current states."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields

from poolservice import __version__
from poolservice.dtypes import NUMPY_DTYPES
from poolservice.specs import LAYERS, OPERATORS, SIZES, PoolSpec
from poolservice.v1 import pool_pb2
from poolservice_server import images
from poolservice_server.backbones.backbone import NO_BACKBONES, Backbone, Backbones, BrokenBackbone
from poolservice_server.backend import Backend, torch_version
from poolservice_server.core.plan import MAX_SPECS
from poolservice_server.core.service import MAX_BATCH_ITEMS
from poolservice_server.pool_heads.head import NO_HEADS, BrokenHead, PoolHead, PoolHeads
from poolservice_server.settings import Settings

_OUTPUT_KINDS = {
    "map": pool_pb2.BACKBONE_OUTPUT_KIND_FEATURE_MAP,
    "vector": pool_pb2.BACKBONE_OUTPUT_KIND_VECTOR,
}


def responder(
    settings: Settings,
    backend: Backend,
    *,
    worker: int,
    backbones: Backbones = NO_BACKBONES,
    pool_heads: PoolHeads = NO_HEADS,
) -> Callable[[], pool_pb2.GetServerInfoResponse]:
    """Return a function that returns the response to GetServerInfo; the parts that never change are built only once.

    Args:
        settings: the server's settings.
        backend: its devices.
        worker: the number of this process among the workers.
        backbones: its backbones.
        pool_heads: its pool heads.
    """
    unchanging = pool_pb2.GetServerInfoResponse(
        version=__version__,
        torch_version=torch_version(),
        operators=[_operator(name) for name in OPERATORS],
        dtypes=NUMPY_DTYPES,
        image_formats=images.FORMATS,
        limits=pool_pb2.Limits(
            max_message_bytes=settings.max_message_bytes,
            max_specs=MAX_SPECS,
            max_image_pixels=settings.max_image_pixels,
            max_output_bytes=settings.max_message_bytes,
            max_batch_items=MAX_BATCH_ITEMS,
            max_queue_items=settings.max_queue_items,
            max_queue_bytes=settings.max_queue_bytes,
            max_batch_size=settings.max_batch_size,
            max_request_seconds=settings.max_request_seconds,
            caller_max_requests=settings.largest_caller_requests,
            caller_max_bytes=settings.largest_caller_bytes,
            caller_max_seconds=settings.caller_max_seconds,
            caller_max_rate=settings.caller_max_rate,
        ),
        worker=worker,
        workers=settings.workers,
        backbones=[*map(_backbone, backbones.serving.values()), *map(_broken_backbone, backbones.broken)],
        heads=[*map(_head, pool_heads.serving.values()), *map(_broken_head, pool_heads.broken)],
    )

    def respond() -> pool_pb2.GetServerInfoResponse:
        info = pool_pb2.GetServerInfoResponse()
        info.CopyFrom(unchanging)
        info.devices.extend(
            pool_pb2.DeviceInfo(
                name=device.name,
                description=device.description,
                state=pool_pb2.DEVICE_STATE_SUSPENDED if device.suspended else pool_pb2.DEVICE_STATE_SERVING,
                reason=device.reason,
            )
            for device in backend.devices()
        )
        return info

    return respond


def _operator(name: str) -> pool_pb2.OperatorInfo:
    layers = [layer for (operator, _), layer in LAYERS.items() if operator == name]
    # The 2-D layer has every parameter. A layer that lacks one refuses it with an error message.
    layer = LAYERS.get((name, 2), layers[0])
    return pool_pb2.OperatorInfo(
        name=name,
        description=(inspect.getdoc(layer) or "").split("\n\n")[0].replace("\n", " "),
        spatial_dims=sorted(layer.spatial_dims for layer in layers),
        parameters=[_parameter(layer, field) for field in fields(layer)],
    )


def _parameter(layer: type[PoolSpec], field: "Field[object]") -> pool_pb2.ParameterInfo:
    annotation = inspect.formatannotation(field.type)
    if field.name in SIZES:
        keeps = ", -1 keeps the input's" if "[int | None]" in annotation else ""
        type_name = f"int or one per dimension{keeps}"
    else:
        type_name = _type_name(annotation)
    parameter = pool_pb2.ParameterInfo(name=field.name, type=type_name)
    if field.default is not MISSING:
        is_kernel_size = field.name == "stride" and field.default is None
        parameter.default_value = "kernel_size" if is_kernel_size else str(field.default)
    return parameter


def _type_name(annotation: str) -> str:
    """Return the type of a parameter in words: float, int, str, "several int", "float or several", a tensor, specs."""
    if "PoolSpec" in annotation:
        return "several specs"
    if "Any" in annotation:
        return "tensor"
    item, _, rest = annotation.replace(" | None", "").partition("collections.abc.Sequence[")
    return f"{item.removesuffix(' | ')} or several" if item and rest else f"several {rest[:-1]}" if rest else item


def _backbone(backbone: Backbone) -> pool_pb2.BackboneInfo:
    return pool_pb2.BackboneInfo(
        name=backbone.name,
        description=backbone.description,
        licence=backbone.licence,
        source=backbone.source,
        fingerprint=backbone.fingerprint,
        input_shape=backbone.input_shape,
        preprocessing=_preprocessing(backbone),
        outputs=[
            pool_pb2.BackboneOutputInfo(name=name, kind=_OUTPUT_KINDS[output.kind], shape=output.shape)
            for name, output in backbone.outputs.items()
        ],
        default_output=backbone.default_output,
        labels=backbone.labels,
        engines=backbone.engines,
        memory_bytes=backbone.memory_bytes,
        seconds=backbone.seconds,
        state=pool_pb2.BACKBONE_STATE_SERVING,
    )


def _broken_backbone(broken: BrokenBackbone) -> pool_pb2.BackboneInfo:
    return pool_pb2.BackboneInfo(name=broken.name, state=pool_pb2.BACKBONE_STATE_BROKEN, reason=broken.reason)


def _head(head: PoolHead) -> pool_pb2.HeadInfo:
    return pool_pb2.HeadInfo(
        name=head.name,
        kind=head.kind,
        description=head.description,
        licence=head.licence,
        source=head.source,
        fingerprint=head.fingerprint,
        channels=head.geometry.channels,
        spatial_shape=head.geometry.spatial or (),
        output_shape=(head.geometry.results,),
        memory_bytes=head.memory_bytes,
        state=pool_pb2.HEAD_STATE_SERVING,
    )


def _broken_head(broken: BrokenHead) -> pool_pb2.HeadInfo:
    return pool_pb2.HeadInfo(name=broken.name, state=pool_pb2.HEAD_STATE_BROKEN, reason=broken.reason)


def _preprocessing(backbone: Backbone) -> list[pool_pb2.PreprocessingInfo]:
    """Return every value that turns an image into an input, in the order of the steps."""
    values = {
        "color_mode": backbone.input.color_mode,
        **dict(backbone.preprocessing),
        "channel_order": backbone.input.channel_order,
    }
    if values["size"] is None:
        if backbone.preprocessing.resize == "squash":
            values["size"] = (backbone.input.height, backbone.input.width)
        else:
            del values["size"]
    return [pool_pb2.PreprocessingInfo(name=name, value=_as_text(value)) for name, value in values.items()]


def _as_text(value: object) -> str:
    """Return a value as in backbone.toml, without quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_text, value))}]"
    return str(value)
