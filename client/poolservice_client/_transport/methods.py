"""The gRPC methods that the client calls, and the requests of those that always send the same one."""

from grpc_health.v1 import health_pb2

from poolservice.v1 import pool_pb2

POOL = "/poolservice.v1.PoolService/Pool"
POOL_BATCH = "/poolservice.v1.PoolService/PoolBatch"
SERVER_INFO = "/poolservice.v1.PoolService/GetServerInfo"
HEALTH = "/grpc.health.v1.Health/Check"

ALL_METHODS = (POOL, POOL_BATCH, SERVER_INFO, HEALTH)

SERVER_INFO_REQUEST = pool_pb2.GetServerInfoRequest().SerializeToString()
HEALTH_REQUEST = health_pb2.HealthCheckRequest().SerializeToString()
