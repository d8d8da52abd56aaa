"""The event loop that takes gRPC's wake-ups together, and the thread of gRPC's core that reads the sockets."""

import asyncio
import functools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from poolservice_server import __main__
from poolservice_server.grpc_adapter import environment, event_loop, multi_accept


class PollerCompletionQueue:
    """As grpcio's: a byte a completion; its reader takes one byte and all completions that are there."""

    def __init__(self) -> None:
        self.reads = 0
        self.woken, self._waker = socket.socketpair()
        self.woken.setblocking(False)

    def complete(self, count: int) -> None:
        self._waker.send(bytes(count))

    def read(self, _loop: object) -> None:
        assert len(self.woken.recv(1)) == 1
        self.reads += 1

    def close(self) -> None:
        self.woken.close()
        self._waker.close()


@pytest.fixture
def queue() -> Iterator[PollerCompletionQueue]:
    queue = PollerCompletionQueue()
    yield queue
    queue.close()


@pytest.mark.parametrize(("calls", "reads"), [(event_loop.CROWD, 1), (event_loop.CROWD - 1, 50)])
def test_in_a_crowd_completions_that_came_together_are_read_together(
    queue: PollerCompletionQueue, calls: int, reads: int
) -> None:
    async def read_all() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, event_loop.EventLoop)
        loop.calls = lambda: calls
        queue.complete(50)
        loop.add_reader(queue.woken, functools.partial(queue.read, loop))
        await until_empty(queue.woken)
        loop.remove_reader(queue.woken)

    with asyncio.Runner(loop_factory=event_loop.EventLoop) as runner:
        runner.run(read_all())
    assert queue.reads == reads


def test_other_readers_are_called_for_each_byte_that_they_leave(queue: PollerCompletionQueue) -> None:
    reads: list[bytes] = []

    async def read_all() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, event_loop.EventLoop)
        loop.calls = lambda: 1000
        queue.complete(5)
        loop.add_reader(queue.woken, lambda: reads.append(queue.woken.recv(1)))
        await until_empty(queue.woken)
        loop.remove_reader(queue.woken)

    with asyncio.Runner(loop_factory=event_loop.EventLoop) as runner:
        runner.run(read_all())
    assert len(reads) == 5


def test_a_crowd_of_calls_is_answered_each_with_its_own_answer() -> None:
    most = 0

    async def serve_crowd() -> list[bytes]:
        nonlocal most
        loop = asyncio.get_running_loop()
        assert isinstance(loop, event_loop.EventLoop)

        async def echo(message: bytes, _context: Any) -> bytes:
            nonlocal most
            await asyncio.sleep(0)
            most = max(most, loop.calls())
            return message

        server = multi_accept.server([])
        server.add_registered_method_handlers("test.Service", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary("/test.Service/Echo")
            answers = await asyncio.gather(*(method(b"%d" % number) for number in range(500)))
        await server.stop(None)
        return answers

    with asyncio.Runner(loop_factory=event_loop.EventLoop) as runner:
        answers = runner.run(serve_crowd())
    assert answers == [b"%d" % number for number in range(500)]
    assert most >= event_loop.CROWD


def test_the_installed_grpc_knows_the_choice_of_who_reads_the_sockets() -> None:
    script = (
        "from poolservice_server import sockets; print(environment.read_where_completions_are_awaited()); import grpc"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("True\n", "")


def test_what_the_operator_has_chosen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_EXPERIMENTS", "tcp_rcv_lowat")
    assert environment.read_where_completions_are_awaited()
    assert os.environ["GRPC_EXPERIMENTS"] == "tcp_rcv_lowat"


@pytest.mark.parametrize("version", ["1.70.0", "1.86.0", "2.0.0"])
def test_an_unknown_grpcio_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    monkeypatch.setattr(environment, "version", lambda _name: version)
    assert not environment.read_where_completions_are_awaited()
    assert "GRPC_EXPERIMENTS" not in os.environ


def test_whoever_starts_a_server_on_an_unknown_grpcio_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    monkeypatch.setattr(environment, "version", lambda _name: "1.86.0")
    monkeypatch.setattr(sys, "argv", ["poolservice-server", "--address", "nowhere"])
    assert __main__.main() == 2
    told, refused = capsys.readouterr().err.splitlines()
    assert "way of reading sockets" in told
    assert "address" in refused


async def until_empty(waiting: socket.socket) -> None:
    """Wait until nothing is left to read."""
    async with asyncio.timeout(30):
        while True:
            await asyncio.sleep(0)
            try:
                waiting.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return
