"""--max-connection-age: clients connect again, and calls go on over their old connection."""

import queue
from collections.abc import Callable

import grpc
import numpy as np

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.testing import Service

StartServer = Callable[..., Service]

WAIT_SECONDS = 60


def test_a_stream_goes_on_when_its_connection_has_reached_its_age(
    start_server: StartServer, small_request: pb.PoolRequest
) -> None:
    server = start_server("--max-connection-age", "0.2")
    requests: queue.SimpleQueue[pb.PoolStreamRequest | None] = queue.SimpleQueue()
    states: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
    with grpc.insecure_channel(server.address) as channel:
        responses = PoolServiceStub(channel).PoolStream(iter(requests.get, None), timeout=WAIT_SECONDS)
        requests.put(pb.PoolStreamRequest(correlation_id=1, request=small_request))
        assert next(responses).status.code == 0
        channel.subscribe(states.put)
        # The server has asked the client to connect again, which it does with its next call.
        while states.get(timeout=WAIT_SECONDS) is not grpc.ChannelConnectivity.IDLE:
            pass
        requests.put(pb.PoolStreamRequest(correlation_id=2, request=small_request))
        response = next(responses).response
        assert float(np.frombuffer(response.results[0].tensor.data, np.float32)[0]) == 2.0
        requests.put(None)
        assert list(responses) == []
