"""The types that `server_info` and `health` return, and reading them from the wire."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from poolservice.dtypes import NUMPY_DTYPES
from poolservice.v1 import pool_pb2
from poolservice_client._backbone_info import BackboneInfo, BackboneOutputInfo, PreprocessingInfo
from poolservice_client._response.reader import unreadable_response


class Health(StrEnum):
    """The health of a server. Only SERVING is true as a condition: `if client.health(): ...`."""

    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    UNKNOWN = "UNKNOWN"

    def __bool__(self) -> bool:
        return self is Health.SERVING


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """A parameter of an operator.

    Attributes:
        name: the name, as in torch.nn.
        type: a description of the values that it takes.
        default: the default as text; None if the parameter is required.
    """

    name: str
    type: str
    default: str | None


@dataclass(frozen=True, slots=True)
class OperatorInfo:
    """An operator that the server offers.

    Attributes:
        name: the operator's name on the wire, such as "max_pool" for MaxPool1d, MaxPool2d and MaxPool3d.
        description: what it computes, in one sentence.
        spatial_dims: the numbers of spatial dimensions that it can pool.
        parameters: its parameters, in torch.nn's order.
    """

    name: str
    description: str
    spatial_dims: tuple[int, ...]
    parameters: tuple[ParameterInfo, ...]


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device of the server.

    Attributes:
        name: the name, as torch writes it: "cpu", "cuda:0".
        description: the name of the graphics card or the processor.
        state: "SERVING", or "SUSPENDED" if the device failed and is probed from time to time.
        reason: why the device is suspended; else empty.
    """

    name: str
    description: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class HeadInfo:
    """A pool head of the server: pooling with learned weights, for `PoolHead2d`.

    Attributes:
        name: the name, for `PoolHead2d`.
        kind: the definition that it computes, such as "netvlad"; `PoolHead2d` has the formulas.
        description: what it is, in one sentence.
        licence: the licence of its weights.
        source: where it comes from.
        fingerprint: identifies the weights and the parameters. Equal fingerprints give equal vectors, within the
            tolerance of the device's arithmetic.
        channels: the number of channels that a sample must have.
        spatial_shape: the height and width that a sample must have; empty if any will do.
        output_shape: the shape of the result for one sample: (D,).
        memory_bytes: the memory that its weights take.
        state: "SERVING", or "BROKEN" if its files are missing or wrong and the server started without it.
        reason: why it does not serve; else empty.
    """

    name: str
    kind: str
    description: str
    licence: str
    source: str
    fingerprint: str
    channels: int
    spatial_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    memory_bytes: int
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the server. It rejects a request that exceeds one.

    Attributes:
        max_message_bytes: bytes of one message, in either direction.
        max_specs: specs of one request.
        max_image_pixels: pixels of one image, as its header declares them.
        max_output_bytes: bytes of all results of one request.
        max_batch_items: requests of one PoolBatchRequest.
        max_queue_items: requests that wait in the queue at one time.
        max_queue_bytes: bytes of the requests that wait in the queue at one time.
        max_batch_size: requests that run in one batch.
        max_request_seconds: seconds of computing that one request may take, as the server estimates them.
        caller_max_requests: requests that one caller may have in flight. Of this limit and the next three,
            0 means none.
        caller_max_bytes: bytes that the requests of one caller in flight may need.
        caller_max_seconds: estimated seconds of computing that one caller may have in flight.
        caller_max_rate: requests per second of one caller.
    """

    max_message_bytes: int
    max_specs: int
    max_image_pixels: int
    max_output_bytes: int
    max_batch_items: int
    max_queue_items: int
    max_queue_bytes: int
    max_batch_size: int
    max_request_seconds: float
    caller_max_requests: int
    caller_max_bytes: int
    caller_max_seconds: float
    caller_max_rate: float


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The version, capabilities and limits of a server.

    Attributes:
        version: the server's version of poolservice.
        torch_version: the server's version of torch.
        operators: the operators that it offers.
        dtypes: the dtypes that a tensor may have, by numpy's names.
        image_formats: the image formats that it reads, by Pillow's names.
        limits: the limits of a request.
        devices: the devices, the preferred one first.
        worker: the number of the worker process that responded, counted from 0.
        workers: the number of worker processes.
        backbones: its backbones.
        heads: its pool heads.
    """

    version: str
    torch_version: str
    operators: tuple[OperatorInfo, ...]
    dtypes: tuple[str, ...]
    image_formats: tuple[str, ...]
    limits: Limits
    devices: tuple[DeviceInfo, ...]
    worker: int
    workers: int
    backbones: tuple[BackboneInfo, ...] = ()
    heads: tuple[HeadInfo, ...] = ()


def read_server_info(message: bytes) -> ServerInfo:
    """Decode a GetServerInfoResponse.

    Raises:
        ServerError: the message is malformed.
    """
    try:
        info = pool_pb2.GetServerInfoResponse.FromString(message)
    except DecodeError as error:
        raise unreadable_response(error) from None
    return ServerInfo(
        version=info.version,
        torch_version=info.torch_version,
        operators=tuple(_operator(operator) for operator in info.operators),
        # A newer server may have dtypes that this client does not know.
        dtypes=tuple(NUMPY_DTYPES[dtype].name for dtype in info.dtypes if dtype in NUMPY_DTYPES),
        image_formats=tuple(info.image_formats),
        limits=Limits(**{name: getattr(info.limits, name) for name in Limits.__slots__}),
        devices=tuple(_device(device) for device in info.devices),
        worker=info.worker,
        # A server that leaves the field out is a single process.
        workers=max(info.workers, 1),
        backbones=tuple(_backbone(backbone) for backbone in info.backbones),
        heads=tuple(_head(head) for head in info.heads),
    )


def read_health(message: bytes) -> Health:
    """Decode a HealthCheckResponse.

    Raises:
        ServerError: the message is malformed.
    """
    try:
        status = health_pb2.HealthCheckResponse.FromString(message).status
    except DecodeError as error:
        raise unreadable_response(error) from None
    if status == health_pb2.HealthCheckResponse.SERVING:
        return Health.SERVING
    return Health.NOT_SERVING if status == health_pb2.HealthCheckResponse.NOT_SERVING else Health.UNKNOWN


def _operator(operator: pool_pb2.OperatorInfo) -> OperatorInfo:
    return OperatorInfo(
        operator.name,
        operator.description,
        tuple(operator.spatial_dims),
        tuple(
            ParameterInfo(one.name, one.type, one.default_value if one.HasField("default_value") else None)
            for one in operator.parameters
        ),
    )


def _device(device: pool_pb2.DeviceInfo) -> DeviceInfo:
    state = _enum_name(pool_pb2.DeviceState, device.state, "DEVICE_STATE_")
    return DeviceInfo(device.name, device.description, state, device.reason)


def _backbone(backbone: pool_pb2.BackboneInfo) -> BackboneInfo:
    return BackboneInfo(
        name=backbone.name,
        description=backbone.description,
        licence=backbone.licence,
        source=backbone.source,
        fingerprint=backbone.fingerprint,
        input_shape=tuple(backbone.input_shape),
        preprocessing=tuple(PreprocessingInfo(one.name, one.value) for one in backbone.preprocessing),
        outputs=tuple(
            BackboneOutputInfo(
                one.name,
                _enum_name(pool_pb2.BackboneOutputKind, one.kind, "BACKBONE_OUTPUT_KIND_"),
                tuple(one.shape),
            )
            for one in backbone.outputs
        ),
        default_output=backbone.default_output,
        labels=tuple(backbone.labels),
        engines=tuple(backbone.engines),
        memory_bytes=backbone.memory_bytes,
        seconds=backbone.seconds,
        state=_enum_name(pool_pb2.BackboneState, backbone.state, "BACKBONE_STATE_"),
        reason=backbone.reason,
    )


def _head(head: pool_pb2.HeadInfo) -> HeadInfo:
    return HeadInfo(
        name=head.name,
        kind=head.kind,
        description=head.description,
        licence=head.licence,
        source=head.source,
        fingerprint=head.fingerprint,
        channels=head.channels,
        spatial_shape=tuple(head.spatial_shape),
        output_shape=tuple(head.output_shape),
        memory_bytes=head.memory_bytes,
        state=_enum_name(pool_pb2.HeadState, head.state, "HEAD_STATE_"),
        reason=head.reason,
    )


def _enum_name(enum: Any, value: int, prefix: str) -> str:
    """Return the name of a value without its prefix; "UNKNOWN" for a value of a newer server."""
    name: str = enum.Name(value) if value in enum.values() else "UNKNOWN"
    return name.removeprefix(prefix)
