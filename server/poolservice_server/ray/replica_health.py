"""The health of one replica, for gRPC's health check and for Serve's own."""

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health_pb2

from poolservice_server.backbones.backbone import Backbones
from poolservice_server.health_statuses import health_statuses, unknown_name
from poolservice_server.ray.proxy import POOL_SERVICE
from poolservice_server.readiness import Readiness


class ReplicaHealth:
    """The statuses by the names of health checks, which are those of a server without Ray.

    Args:
        readiness: the readiness of the replica and of its backbones.
        backbones: the backbones, with those that the replica started without.
    """

    def __init__(self, readiness: Readiness, backbones: Backbones) -> None:
        self._readiness = readiness
        self._statuses = health_statuses(POOL_SERVICE, readiness, backbones)

    def check(self, message: bytes) -> bytes | status_pb2.Status:
        """Return the encoded response to a HealthCheckRequest, or the status with which its call ends."""
        try:
            name = health_pb2.HealthCheckRequest.FromString(message).service
        except DecodeError:
            return status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="the message is not a HealthCheckRequest")
        is_serving = self._statuses.get(name)
        if is_serving is None:
            return status_pb2.Status(code=code_pb2.NOT_FOUND, message=unknown_name(POOL_SERVICE))
        response = health_pb2.HealthCheckResponse
        encoded: bytes = response(status=response.SERVING if is_serving() else response.NOT_SERVING).SerializeToString()
        return encoded

    def require_ready(self) -> None:
        """Raise RuntimeError unless the replica can compute."""
        if not self._readiness.is_ready:
            raise RuntimeError("the devices of this replica do not compute")
