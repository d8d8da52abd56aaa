"""Fixtures of the tests of backbones in the service core: a service in this process that runs a fake network."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.backbones.core.fake_network import FakeNetwork, backbone, backbones

from poolservice.v1 import pool_pb2 as pb
from poolservice_server.batcher import Batcher
from poolservice_server.core.service import PoolService

Serve = Callable[..., PoolService]


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def image_threads() -> Iterator[ThreadPoolExecutor]:
    """Return the threads that decode images."""
    with ThreadPoolExecutor(2, thread_name_prefix="decode") as executor:
        yield executor


@pytest.fixture
def serve(network: FakeNetwork, image_threads: ThreadPoolExecutor) -> Serve:
    """Return a function that makes a service with the backbone "net"; it takes arguments of PoolService and Batcher.

    `batcher` is a batcher or its arguments.
    """

    def serve(
        *,
        batcher: Batcher | dict[str, Any] | None = None,
        info: Callable[[], pb.GetServerInfoResponse] = pb.GetServerInfoResponse,
        **changes: Any,
    ) -> PoolService:
        arguments: dict[str, Any] = {
            "max_message_bytes": 2**26,
            "max_image_pixels": 2**20,
            "max_queue_bytes": 2**28,
            "max_unread_bytes": 0,
            "max_request_seconds": 10.0,
            "seconds_per_step": 1e-9,
            "backbones": backbones(backbone()),
            **changes,
        }
        if not isinstance(batcher, Batcher):
            batcher = Batcher(network, **({"inline_bytes": 2**20} | (batcher or {})))
        return PoolService(batcher, image_threads, info, **arguments)

    return serve
