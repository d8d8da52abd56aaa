"""Attacks of a hostile HTTP/2 server on its clients: the frames that it sends, and the errors that callers get."""

import asyncio
import struct
from collections.abc import Callable
from typing import NamedTuple

from tests.client import hostile_server as h2
from tests.client.hostile_server import Attack, Peer

from poolservice_client import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PoolError,
    ServerError,
    Unauthenticated,
    Unavailable,
)

#: The attempts of a call, as the tests' retry policy limits them.
ATTEMPTS = 3
#: The timeouts of calls that only their timeout ends, and of calls that fail earlier.
SHORT = 0.3
LONG = 30.0

MEGABYTE = 2**20
OK = (b"grpc-status", b"0")


class Case(NamedTuple):
    """An attack, and the error that the caller gets.

    Attributes:
        attack: the server's reaction to each stream.
        errors: the possible errors of a call. Where there are several, it depends on which frame gRPC reads first.
        timeout: the timeout of each call.
    """

    attack: Attack
    errors: tuple[type[PoolError], ...]
    timeout: float = LONG


def rst(code: int) -> bytes:
    return struct.pack(">I", code)


def goaway(last_stream: int, code: int = 0, text: bytes = b"") -> bytes:
    return h2.frame(h2.GOAWAY, 0, 0, struct.pack(">II", last_stream, code) + text)


def reset(code: int) -> Attack:
    async def attack(peer: Peer, stream: int) -> None:
        await peer.send(h2.frame(h2.RST_STREAM, 0, stream, rst(code)))

    return attack


def status(*trailers: tuple[bytes, bytes]) -> Attack:
    """Respond with trailers only."""

    async def attack(peer: Peer, stream: int) -> None:
        await peer.headers(stream, *trailers, flags=h2.END_STREAM)

    return attack


def body(payload: bytes, *trailers: tuple[bytes, bytes]) -> Attack:
    """Respond with headers, these bytes of data, and trailers if there are any."""

    async def attack(peer: Peer, stream: int) -> None:
        await peer.headers(stream)
        await peer.data(stream, payload)
        if trailers:
            await peer.trailers(stream, *trailers)

    return attack


def raw(*frames: Callable[[int], bytes]) -> Attack:
    """Send frames for the stream after valid response headers."""

    async def attack(peer: Peer, stream: int) -> None:
        await peer.headers(stream)
        await peer.send(*(make(stream) for make in frames))

    return attack


def before_headers(*frames: Callable[[int], bytes], close: bool = False) -> Attack:
    async def attack(peer: Peer, stream: int) -> None:
        await peer.send(*(make(stream) for make in frames))
        if close:
            await peer.close()

    return attack


def web_page(code: bytes) -> Attack:
    """Respond with a web page, as a proxy does."""

    async def attack(peer: Peer, stream: int) -> None:
        head = h2.fields((b":status", code), (b"content-type", b"text/html"))
        await peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, head))

    return attack


async def no_response(peer: Peer, stream: int) -> None:
    """Never respond."""


async def close_at_once(peer: Peer, stream: int) -> None:
    await peer.close()


async def reset_within_message(peer: Peer, stream: int) -> None:
    await peer.headers(stream)
    await peer.data(stream, h2.message(b"x" * 10, 100))
    await peer.send(h2.frame(h2.RST_STREAM, 0, stream, rst(2)))


async def reset_after_message(peer: Peer, stream: int) -> None:
    await peer.headers(stream)
    await peer.data(stream, h2.message(b"x" * 10))
    await peer.send(h2.frame(h2.RST_STREAM, 0, stream, rst(2)))


async def close_within_message(peer: Peer, stream: int) -> None:
    await peer.headers(stream)
    await peer.data(stream, h2.message(b"x" * 10, 100))
    await peer.close()


async def endless_message(peer: Peer, stream: int) -> None:
    await peer.headers(stream)
    await peer.data(stream, h2.message(b"", MEGABYTE // 2))
    while True:
        await peer.data(stream, b"\x00" * MEGABYTE)


async def endless_messages(peer: Peer, stream: int) -> None:
    await peer.headers(stream)
    while True:
        await peer.data(stream, h2.message(b"\x00" * 1000) * 100)


async def trickle(peer: Peer, stream: int) -> None:
    await peer.headers(stream)
    await peer.data(stream, h2.message(b"", 1000))
    while True:
        await peer.data(stream, b"\x00")
        await asyncio.sleep(0.05)


async def endless_continuation(peer: Peer, stream: int) -> None:
    await peer.send(h2.frame(h2.HEADERS, 0, stream, h2.fields((b":status", b"200"))))
    while True:
        await peer.send(h2.frame(h2.CONTINUATION, 0, stream, h2.fields((b"x-more", b"y" * 8000))))


async def endless_pings(peer: Peer, stream: int) -> None:
    while True:
        await peer.send(h2.frame(h2.PING, 0, 0, b"12345678") * 100)
        await asyncio.sleep(0)


BROKEN_CONNECTION = (Unavailable, ServerError)

CASES: dict[str, Case] = {
    # Streams that end early.
    "RST_STREAM NO_ERROR": Case(reset(0), (ServerError,)),
    "RST_STREAM PROTOCOL_ERROR": Case(reset(1), (ServerError,)),
    "RST_STREAM INTERNAL_ERROR": Case(reset(2), (ServerError,)),
    "RST_STREAM REFUSED_STREAM": Case(reset(7), (Unavailable,)),
    "RST_STREAM CANCEL": Case(reset(8), (ServerError,)),
    "RST_STREAM ENHANCE_YOUR_CALM": Case(reset(11), (Overloaded,)),
    "RST_STREAM INADEQUATE_SECURITY": Case(reset(12), (Unauthenticated,)),
    "RST_STREAM with an unknown code": Case(reset(0xDEADBEEF), (ServerError,)),
    "RST_STREAM within a message": Case(reset_within_message, (ServerError,)),
    "RST_STREAM after a message": Case(reset_after_message, (ServerError,)),
    "RST_STREAM of three bytes": Case(
        before_headers(lambda stream: h2.frame(h2.RST_STREAM, 0, stream, b"\0\0\0")), BROKEN_CONNECTION
    ),
    # Connections that end early.
    "GOAWAY that excludes the call": Case(before_headers(lambda stream: goaway(0), close=True), (Unavailable,)),
    "GOAWAY that includes the call": Case(before_headers(lambda stream: goaway(stream), close=True), (Unavailable,)),
    "GOAWAY ENHANCE_YOUR_CALM": Case(
        before_headers(lambda stream: goaway(0, 11, b"too_many_pings\x1b[31m"), close=True), (Unavailable, Overloaded)
    ),
    "GOAWAY without the end": Case(before_headers(goaway), (DeadlineExceeded,), timeout=SHORT),
    "close": Case(close_at_once, (Unavailable,)),
    "close within a message": Case(close_within_message, BROKEN_CONNECTION),
    # Responses that never end.
    "no response": Case(no_response, (DeadlineExceeded,), timeout=SHORT),
    "trickle": Case(trickle, (DeadlineExceeded,), timeout=SHORT),
    "endless message": Case(endless_message, (DeadlineExceeded, InvalidRequest, ServerError), timeout=SHORT),
    "endless messages": Case(endless_messages, (DeadlineExceeded, ServerError), timeout=SHORT),
    "endless pings": Case(endless_pings, (DeadlineExceeded, Unavailable), timeout=SHORT),
    # Headers.
    "huge header": Case(status((b"x-huge", b"y" * 12_000), OK), (ServerError,)),
    "many headers": Case(status(*((b"x-%d" % number, b"y" * 20) for number in range(400))), (ServerError, Overloaded)),
    "endless CONTINUATION": Case(endless_continuation, (*BROKEN_CONNECTION, DeadlineExceeded), timeout=SHORT),
    "HPACK garbage": Case(
        before_headers(lambda stream: h2.frame(h2.HEADERS, h2.END_HEADERS, stream, b"\xff\xff\xff\xff\xff\xff")),
        BROKEN_CONNECTION,
    ),
    "no headers": Case(
        before_headers(lambda stream: h2.frame(h2.DATA, h2.END_STREAM, stream, h2.message(b"x"))), BROKEN_CONNECTION
    ),
    # Lengths.
    "giant declared message": Case(body(h2.message(b"x", 2**32 - 1)), (InvalidRequest,)),
    "message longer than its data": Case(body(h2.message(b"x" * 10, 100), OK), (ServerError,)),
    # gRPC reads one message only, and learns of the trailers when the others are read.
    "message shorter than its data": Case(body(h2.message(b"x" * 100, 10), OK), (DeadlineExceeded,), timeout=SHORT),
    "half a prefix": Case(body(b"\0\0\0", OK), (ServerError,)),
    "two messages": Case(body(h2.message(b"\xff") * 2, OK), (DeadlineExceeded,), timeout=SHORT),
    "no message": Case(body(b"", OK), (ServerError,)),
    "compressed without an encoding": Case(body(h2.message(b"x" * 10, compressed=True), OK), (ServerError,)),
    "message of garbage": Case(body(h2.message(b"\xff" * 50), OK), (ServerError,)),
    "frame over the limit": Case(
        raw(lambda stream: struct.pack(">I", 2**24 - 1)[1:] + bytes([h2.DATA, 0]) + struct.pack(">I", stream)),
        BROKEN_CONNECTION,
    ),
    "padding longer than the frame": Case(
        raw(lambda stream: h2.frame(h2.DATA, h2.PADDED, stream, b"\xff" + b"x" * 10)), BROKEN_CONNECTION
    ),
    # gRPC may have widened its window far enough already.
    "data beyond the window": Case(
        raw(*[lambda stream: h2.frame(h2.DATA, 0, stream, b"\0" * 16_384)] * 1000),
        (*BROKEN_CONNECTION, DeadlineExceeded),
        timeout=SHORT,
    ),
    # gRPC accepts windows of any size.
    "window overflow": Case(
        raw(*[lambda stream: h2.frame(h2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")] * 2),
        (DeadlineExceeded,),
        timeout=SHORT,
    ),
    # Statuses.
    "trailers missing": Case(
        raw(lambda stream: h2.frame(h2.DATA, h2.END_STREAM, stream, h2.message(b"x"))), (ServerError,)
    ),
    "no grpc-status": Case(body(h2.message(b"x"), (b"x-other", b"1")), (ServerError,)),
    "grpc-status is no number": Case(status((b"grpc-status", b"abc")), (ServerError,)),
    "grpc-status 99": Case(status((b"grpc-status", b"99")), (ServerError,)),
    "grpc-status -1": Case(status((b"grpc-status", b"-1")), (ServerError,)),
    "details of garbage": Case(status((b"grpc-status", b"8"), (b"grpc-status-details-bin", b"/////w")), (Overloaded,)),
    "HTTP status 502": Case(web_page(b"502"), (Unavailable,)),
    "HTTP status 404": Case(web_page(b"404"), (ServerError,)),
    # Frames that have no place here.
    "PUSH_PROMISE": Case(
        before_headers(
            lambda stream: h2.frame(h2.PUSH_PROMISE, h2.END_HEADERS, stream, struct.pack(">I", 2) + h2.fields())
        ),
        (*BROKEN_CONNECTION, DeadlineExceeded),
        timeout=SHORT,
    ),
    "HTTP/1.1": Case(
        before_headers(lambda stream: b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"), BROKEN_CONNECTION
    ),
}
