"""The gRPC methods that the client calls, and the requests of those that always send the same one."""

from grpc_health.v1 import health_pb2

from poolservice.v1 import pool_pb2

#: The name of the service, also for health checks.
SERVICE_NAME = "poolservice.v1.PoolService"

POOL = f"/{SERVICE_NAME}/Pool"
POOL_BATCH = f"/{SERVICE_NAME}/PoolBatch"
SERVER_INFO = f"/{SERVICE_NAME}/GetServerInfo"
HEALTH = "/grpc.health.v1.Health/Check"

ALL_METHODS = (POOL, POOL_BATCH, SERVER_INFO, HEALTH)

SERVER_INFO_REQUEST = pool_pb2.GetServerInfoRequest().SerializeToString()
HEALTH_REQUEST = health_pb2.HealthCheckRequest().SerializeToString()
