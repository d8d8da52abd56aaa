"""The client SDK of poolservice: pooled tensors, images and feature vectors from a pooling service.

    from poolservice_client import MaxPool2d, PoolClient

    with PoolClient("localhost:50051") as client:
        y = client.pool(x, MaxPool2d(2))

PoolClient blocks and AsyncPoolClient is for asyncio. The specs, such as MaxPool2d, are named as the layers of torch.nn.
All errors derive from PoolError.

The private packages follow the path of a call: `_clients` has the public classes and `_settings` their arguments.
`_request` encodes a message, `_coalescing` combines small calls in one message, `_transport` sends it, and `_response`
decodes the response. `_map` pools many inputs, and `_cli` is the command line.
"""

from poolservice import __version__
from poolservice.specs import PoolSpec
from poolservice.specs import layers as _layers
from poolservice.specs.layers import *  # noqa: F403 - `layers` has the one list that the SDK and the specs export
from poolservice_client._backbone_info import BackboneInfo, BackboneOutputInfo, PreprocessingInfo
from poolservice_client._clients.aio import AsyncPoolClient
from poolservice_client._clients.blocking import PoolClient
from poolservice_client._map.map_item import MapItem
from poolservice_client._response.explanation import Explanation, ImageRegion
from poolservice_client._response.reader import Execution, PoolResponse
from poolservice_client._server_info import (
    DeviceInfo,
    HeadInfo,
    Health,
    Limits,
    OperatorInfo,
    ParameterInfo,
    ServerInfo,
)
from poolservice_client._settings.credentials import TLS
from poolservice_client._settings.retry_policy import RetryPolicy
from poolservice_client._stats import ClientStats
from poolservice_client.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PoolError,
    ServerError,
    Unauthenticated,
    Unavailable,
)

__all__ = [
    "TLS",
    "AsyncPoolClient",
    "BackboneInfo",
    "BackboneOutputInfo",
    "ClientStats",
    "DeadlineExceeded",
    "DeviceInfo",
    "Execution",
    "Explanation",
    "HeadInfo",
    "Health",
    "ImageRegion",
    "InvalidRequest",
    "Limits",
    "MapItem",
    "OperatorInfo",
    "Overloaded",
    "ParameterInfo",
    "PoolClient",
    "PoolError",
    "PoolResponse",
    "PoolSpec",
    "PreprocessingInfo",
    "RetryPolicy",
    "ServerError",
    "ServerInfo",
    "Unauthenticated",
    "Unavailable",
    "__version__",
]
__all__ += _layers.__all__
