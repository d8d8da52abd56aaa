"""What a server says of itself, and whether it serves, as plain objects."""

from dataclasses import dataclass
from enum import StrEnum

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from poolservice.dtypes import NUMPY_DTYPES
from poolservice.v1 import pool_pb2
from poolservice_client._transport.connections import Place
from poolservice_client.errors import ServerError

INFO_REQUEST = pool_pb2.GetServerInfoRequest().SerializeToString()
HEALTH_REQUEST = health_pb2.HealthCheckRequest().SerializeToString()


class Health(StrEnum):
    """Whether a server takes calls. True as a condition only where it does: ``if client.health(): ...``."""

    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    UNKNOWN = "UNKNOWN"

    def __bool__(self) -> bool:
        return self is Health.SERVING


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """A parameter of an operator.

    Attributes:
        name: as in torch.nn.
        type: what it takes, in words.
        default: its default as text; None where it is required.
    """

    name: str
    type: str
    default: str | None


@dataclass(frozen=True, slots=True)
class OperatorInfo:
    """An operator that the server offers.

    Attributes:
        name: the operator's name on the wire, "max_pool" for MaxPool1d, MaxPool2d and MaxPool3d.
        description: what it computes, in one sentence.
        spatial_dims: the numbers of spatial dimensions that it pools.
        parameters: in the order of torch.nn.
    """

    name: str
    description: str
    spatial_dims: tuple[int, ...]
    parameters: tuple[ParameterInfo, ...]


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device of the server.

    Attributes:
        name: in torch's words: "cpu", "cuda:0".
        description: the card's or the processor's name.
        state: "SERVING", or "SUSPENDED" where it failed and is probed from time to time.
        reason: why it is suspended; else empty.
    """

    name: str
    description: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask of the server; more is refused.

    Attributes:
        max_message_bytes: bytes of one message, in either direction.
        max_specs: specs of one request.
        max_image_pixels: pixels of one picture, by its header.
        max_output_bytes: bytes of all results of one request.
        max_batch_items: items of one packed message.
        max_queue_items: requests that wait at one time.
        max_queue_bytes: bytes of the requests that wait at one time.
        max_batch_size: requests that run in one batch.
    """

    max_message_bytes: int
    max_specs: int
    max_image_pixels: int
    max_output_bytes: int
    max_batch_items: int
    max_queue_items: int
    max_queue_bytes: int
    max_batch_size: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is and can do.

    Attributes:
        version: the version of poolservice.
        torch_version: the version of torch that computes.
        operators: the operators.
        dtypes: the types that a tensor may have, by numpy's names.
        image_formats: the picture formats that are read, by Pillow's names.
        limits: what a request may ask for.
        devices: the devices, the preferred one first.
        worker: which of the server's processes answered, from 0.
        workers: how many there are.
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


def read_info(message: bytes) -> ServerInfo:
    """The ServerInfo of a GetServerInfoResponse.

    Raises:
        ServerError: it is no such message.
    """
    info = _parse(message)
    return ServerInfo(
        version=info.version,
        torch_version=info.torch_version,
        operators=tuple(_operator(operator) for operator in info.operators),
        # A newer server may have types that this client has no name for.
        dtypes=tuple(NUMPY_DTYPES[dtype].name for dtype in info.dtypes if dtype in NUMPY_DTYPES),
        image_formats=tuple(info.image_formats),
        limits=Limits(**{name: getattr(info.limits, name) for name in Limits.__slots__}),
        devices=tuple(_device(device) for device in info.devices),
        worker=info.worker,
        # A server that does not say is one process.
        workers=max(info.workers, 1),
    )


def read_place(message: bytes) -> Place:
    """Which worker a GetServerInfoResponse comes from.

    Raises:
        ServerError: it is no such message.
    """
    info = _parse(message)
    return Place(info.worker, max(info.workers, 1))


def read_health(message: bytes) -> Health:
    """The Health of a HealthCheckResponse.

    Raises:
        ServerError: it is no such message.
    """
    try:
        status = health_pb2.HealthCheckResponse.FromString(message).status
    except DecodeError as error:
        raise ServerError(f"the server's answer cannot be read: {error}") from None
    if status == health_pb2.HealthCheckResponse.SERVING:
        return Health.SERVING
    return Health.NOT_SERVING if status == health_pb2.HealthCheckResponse.NOT_SERVING else Health.UNKNOWN


def _parse(message: bytes) -> pool_pb2.GetServerInfoResponse:
    try:
        return pool_pb2.GetServerInfoResponse.FromString(message)
    except DecodeError as error:
        raise ServerError(f"the server's answer cannot be read: {error}") from None


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
    state = pool_pb2.DeviceState.Name(device.state) if device.state in pool_pb2.DeviceState.values() else "UNKNOWN"
    return DeviceInfo(device.name, device.description, state.removeprefix("DEVICE_STATE_"), device.reason)
