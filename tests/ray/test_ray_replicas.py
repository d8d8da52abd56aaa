"""Replicas that end, start and stop under load lose no call."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from google.rpc import code_pb2
from tests.chaos.clients import Clients
from tests.ray.conftest import RayService, replica_pids, wait_until
from tests.ray.test_ray_calls import request, result

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

THREADS = 8
SECONDS = 60.0


@contextmanager
def load(address: str) -> Iterator[Clients]:
    """Call the service from several threads until the end of the block; then check that no call was wrong or lost."""
    clients = Clients(address, THREADS, timeout=SECONDS)
    try:
        clients.wait_for(50, SECONDS)
        yield clients
        clients.wait_for(50, SECONDS)
    finally:
        clients.stop()
    assert not clients.failed
    assert clients.wrong == 0


def test_a_killed_replica_costs_no_call(two_replicas: RayService) -> None:
    before = replica_pids()
    killed = min(before)
    with load(two_replicas.address):
        os.kill(killed, signal.SIGKILL)
        # Serve starts another one.
        wait_until(lambda: len(replica_pids()) == 2 and killed not in replica_pids())


def test_a_killed_replica_ends_no_stream(two_replicas: RayService) -> None:
    count = 300
    pids = replica_pids()

    def requests() -> Iterator[pb.PoolStreamRequest]:
        for number in range(count):
            if number == count // 2:
                os.kill(min(pids), signal.SIGKILL)
            yield pb.PoolStreamRequest(correlation_id=number, request=request(number))

    with grpc.insecure_channel(two_replicas.address) as channel:
        responses = list(PoolServiceStub(channel).PoolStream(requests()))
    assert sorted(response.correlation_id for response in responses) == list(range(count))
    for response in responses:
        if response.status.code == 0:
            assert result(response.response) == response.correlation_id
        else:
            assert response.status.code == code_pb2.UNAVAILABLE


def test_replacing_all_replicas_by_more_or_fewer_costs_no_call(two_replicas: RayService) -> None:
    with load(two_replicas.address) as clients:
        two_replicas.scale(num_replicas=3)
        wait_until(lambda: len(replica_pids()) == 3)
        clients.wait_for(50, SECONDS)
        two_replicas.scale(num_replicas=1)
        wait_until(lambda: len(replica_pids()) == 1)


def test_the_number_of_replicas_follows_the_load_without_a_lost_call(two_replicas: RayService) -> None:
    autoscaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 0.5,
        "upscale_delay_s": 0.5,
        "downscale_delay_s": 1.0,
        "metrics_interval_s": 0.5,
        "look_back_period_s": 1.0,
    }
    two_replicas.scale(autoscaling_config=autoscaling)
    wait_until(lambda: len(replica_pids()) == 1)
    with load(two_replicas.address):
        wait_until(lambda: len(replica_pids()) == 2)
    wait_until(lambda: len(replica_pids()) == 1)
