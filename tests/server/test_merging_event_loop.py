"""The event loop that merges gRPC's wake-ups."""

import asyncio
import functools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from poolservice_server.grpc_adapter import merging_event_loop, private_names


class PollerCompletionQueue:
    """A stand-in for grpcio's class: one byte per completion; its reader takes one byte and all ready completions."""

    def __init__(self) -> None:
        self.reads = 0
        self.readable, self._writable = socket.socketpair()
        self.readable.setblocking(False)

    def complete(self, count: int) -> None:
        self._writable.send(bytes(count))

    def read(self, _loop: object) -> None:
        assert len(self.readable.recv(1)) == 1
        self.reads += 1

    def close(self) -> None:
        self.readable.close()
        self._writable.close()


@pytest.fixture
def queue() -> Iterator[PollerCompletionQueue]:
    queue = PollerCompletionQueue()
    yield queue
    queue.close()


def read_completions(
    queue: PollerCompletionQueue, reader: Callable[[asyncio.AbstractEventLoop], Any], *, active_calls: int
) -> None:
    """Complete 50 calls, then run the loop with the reader until the queue's socket is empty."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, merging_event_loop.EventLoop)
        loop.active_calls = lambda: active_calls
        queue.complete(50)
        loop.add_reader(queue.readable, reader(loop))
        await until_empty(queue.readable)
        loop.remove_reader(queue.readable)

    with asyncio.Runner(loop_factory=merging_event_loop.EventLoop) as runner:
        runner.run(run())


@pytest.mark.parametrize(
    ("active_calls", "reads"),
    [(merging_event_loop.MERGE_WAKEUPS_FROM, 1), (merging_event_loop.MERGE_WAKEUPS_FROM - 1, 50)],
)
def test_wakeups_are_merged_if_many_calls_are_active(
    queue: PollerCompletionQueue, active_calls: int, reads: int
) -> None:
    read_completions(queue, lambda loop: functools.partial(queue.read, loop), active_calls=active_calls)
    assert queue.reads == reads


def test_wakeups_of_other_readers_are_not_merged(queue: PollerCompletionQueue) -> None:
    reads: list[bytes] = []
    read_completions(queue, lambda _loop: lambda: reads.append(queue.readable.recv(1)), active_calls=1000)
    assert len(reads) == 50


@pytest.mark.skipif(bool(private_names.missing("multi_accept_server")), reason="needs the multi-accept server")
def test_each_of_many_concurrent_calls_gets_its_own_response() -> None:
    from poolservice_server.grpc_adapter import multi_accept_server

    most_active = 0

    async def serve_and_call() -> list[bytes]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, merging_event_loop.EventLoop)

        async def echo(message: bytes, _context: Any) -> bytes:
            nonlocal most_active
            await asyncio.sleep(0)
            most_active = max(most_active, loop.active_calls())
            return message

        server = multi_accept_server.create_server([])
        server.add_registered_method_handlers("test.Service", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary("/test.Service/Echo")
            responses = await asyncio.gather(*(method(b"%d" % number) for number in range(500)))
        await server.stop(None)
        return responses

    with asyncio.Runner(loop_factory=merging_event_loop.EventLoop) as runner:
        responses = runner.run(serve_and_call())
    assert responses == [b"%d" % number for number in range(500)]
    assert most_active >= merging_event_loop.MERGE_WAKEUPS_FROM


async def until_empty(readable: socket.socket) -> None:
    """Wait until nothing is left to read."""
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(0)
            try:
                readable.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return
