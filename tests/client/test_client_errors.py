"""Every failure raises the right PoolError, with a message that says what to do."""

import contextlib
import pickle
import socket
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from poolservice.codec import Result, Value, encode_response
from poolservice.v1 import pool_pb2
from poolservice_client import (
    AsyncPoolClient,
    DeadlineExceeded,
    GlobalAvgPool2d,
    InvalidRequest,
    MaxPool2d,
    Overloaded,
    PoolClient,
    PoolError,
    ServerError,
    Unauthenticated,
    Unavailable,
)

Serve = Callable[[Callable[[bytes, grpc.ServicerContext], bytes]], str]

X = np.ones((2, 4, 4), np.float32)
CODES = {code.value[0]: code for code in grpc.StatusCode}


def failing(code: int, message: str, *details: Message) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    """Return a Pool method that fails with a status and google.rpc details."""

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        status = status_pb2.Status(code=code, message=message)
        for detail in details:
            status.details.add().Pack(detail)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(CODES[code], message)
        raise AssertionError

    return behaviour


def bad_request(*violations: tuple[str, str]) -> error_details_pb2.BadRequest:
    bad = error_details_pb2.BadRequest()
    for field, description in violations:
        bad.field_violations.add(field=field, description=description)
    return bad


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(round(seconds * 1000))
    return retry


@pytest.mark.parametrize(
    ("code", "error_class"),
    [
        (code_pb2.INVALID_ARGUMENT, InvalidRequest),
        (code_pb2.FAILED_PRECONDITION, InvalidRequest),
        (code_pb2.OUT_OF_RANGE, InvalidRequest),
        (code_pb2.RESOURCE_EXHAUSTED, Overloaded),
        (code_pb2.DEADLINE_EXCEEDED, DeadlineExceeded),
        (code_pb2.UNAUTHENTICATED, Unauthenticated),
        (code_pb2.PERMISSION_DENIED, Unauthenticated),
        (code_pb2.UNAVAILABLE, Unavailable),
        (code_pb2.INTERNAL, ServerError),
        (code_pb2.UNKNOWN, ServerError),
        (code_pb2.DATA_LOSS, ServerError),
        (code_pb2.ABORTED, ServerError),
        (code_pb2.CANCELLED, ServerError),
        (code_pb2.NOT_FOUND, ServerError),
        (code_pb2.ALREADY_EXISTS, ServerError),
        (code_pb2.UNIMPLEMENTED, ServerError),
    ],
    ids=lambda value: code_pb2.Code.Name(value) if isinstance(value, int) else "",
)
@pytest.mark.parametrize("with_details", [True, False])
async def test_each_status_code_has_its_exception(
    serve: Serve, code: int, error_class: type[PoolError], with_details: bool
) -> None:
    def plain(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(CODES[code], "the message")
        raise AssertionError

    address = serve(failing(code, "the message") if with_details else plain)
    with PoolClient(address) as client, pytest.raises(PoolError, match="the message") as blocking:
        client.pool(X, MaxPool2d(2))
    async with AsyncPoolClient(address) as aclient:
        with pytest.raises(PoolError, match="the message") as awaited:
            await aclient.pool(X, MaxPool2d(2))
    if code == code_pb2.RESOURCE_EXHAUSTED and with_details:
        # By the contract, a full queue has RetryInfo. Without it, a message was too large.
        error_class = InvalidRequest
    assert type(blocking.value) is type(awaited.value) is error_class
    assert str(blocking.value) == str(awaited.value)
    # The traceback must not show gRPC's exceptions.
    assert blocking.value.__cause__ is None
    assert blocking.value.__suppress_context__


def test_an_invalid_request_names_the_field(serve: Serve) -> None:
    bad = bad_request(("specs[0].max_pool.padding", "must be at most half the kernel"))
    address = serve(failing(code_pb2.INVALID_ARGUMENT, "refused", bad))
    with PoolClient(address) as client, pytest.raises(InvalidRequest) as raised:
        client.pool(X, MaxPool2d(2))
    assert raised.value.field == "specs[0].padding"
    assert raised.value.reason == "must be at most half the kernel"
    assert str(raised.value) == "specs[0].padding: must be at most half the kernel"


def test_an_invalid_request_lists_all_violations(serve: Serve) -> None:
    address = serve(failing(code_pb2.INVALID_ARGUMENT, "refused", bad_request(("a", "is bad"), ("b", "is worse"))))
    with PoolClient(address) as client, pytest.raises(InvalidRequest, match="a: is bad; b: is worse") as raised:
        client.pool(X, MaxPool2d(2))
    assert raised.value.field == "a"


def test_a_full_queue_says_when_to_retry(serve: Serve) -> None:
    address = serve(failing(code_pb2.RESOURCE_EXHAUSTED, "the queue is full", retry_info(0.25)))
    with PoolClient(address) as client, pytest.raises(Overloaded, match="the queue is full") as raised:
        client.pool(X, MaxPool2d(2))
    assert raised.value.retry_after == 0.25


def test_a_server_error_has_the_id_of_the_log_entry(serve: Serve) -> None:
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain="poolservice", metadata={"error_id": "4f2a"})
    address = serve(failing(code_pb2.INTERNAL, "the server failed", info))
    with PoolClient(address) as client, pytest.raises(ServerError, match="the server failed") as raised:
        client.pool(X, MaxPool2d(2))
    assert raised.value.error_id == "4f2a"


@pytest.mark.parametrize("malformed", ["status", "detail"])
def test_malformed_details_are_ignored(serve: Serve, malformed: str) -> None:
    packed = Packed(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff\xff")
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="the message", details=[packed])
    details = b"\xff\xff" if malformed == "status" else status.SerializeToString()

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message")
        raise AssertionError

    with PoolClient(serve(behaviour)) as client, pytest.raises(InvalidRequest, match="the message"):
        client.pool(X, MaxPool2d(2))


@pytest.mark.parametrize(
    "error",
    [
        Overloaded("full", retry_after=3.5),
        ServerError("failed", error_id="4f2a"),
        InvalidRequest("is bad", field="specs"),
        DeadlineExceeded("late"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_pickled(error: PoolError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def tensor_response(
    *, shape: tuple[int, ...] = (2, 2, 2), data: bytes = bytes(32), dtype: int = 1, times: int = 1
) -> bytes:
    head = pool_pb2.Tensor(dtype=dtype, shape=shape).SerializeToString()  # type: ignore[arg-type]
    return encode_response(pool_pb2.Execution(device="cpu"), [Result(Value("tensor", head, data))] * times)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (b"\xff\xff\xff", "cannot be read"),
        (b"", "1 results were expected, but 0 were received"),
        (tensor_response(times=2), "1 results were expected, but 2 were received"),
        (tensor_response(data=bytes(31)), r"a float32 tensor of shape \(2, 2, 2\) has 31 bytes"),
        (tensor_response(dtype=99), "DataType 99 is not a type that a tensor can have"),
        (tensor_response(shape=(-1, -2), data=b""), "shape"),
        (
            encode_response(pool_pb2.Execution(), [Result(Value("image", b"", b"abc"))]),
            "kind image was received instead of tensor",
        ),
    ],
)
def test_a_response_that_does_not_fit_the_request_is_a_server_error(
    serve: Serve, response: bytes, message: str
) -> None:
    with PoolClient(serve(lambda request, context: response)) as client, pytest.raises(ServerError, match=message):
        client.pool(X, MaxPool2d(2))


def test_missing_indices_are_a_server_error(serve: Serve) -> None:
    with (
        PoolClient(serve(lambda request, context: tensor_response())) as client,
        pytest.raises(ServerError, match=r"the result of MaxPool2d\(.*return_indices=True\) has no indices"),
    ):
        client.pool(X, MaxPool2d(2, return_indices=True))


@pytest.mark.parametrize("kind", ["tensor", "image"])
def test_an_invalid_image_in_a_response_is_a_server_error(serve: Serve, kind: Any) -> None:
    response = encode_response(pool_pb2.Execution(), [Result(Value(kind, b"", b"no PNG"))])
    with (
        PoolClient(serve(lambda request, context: response)) as client,
        pytest.raises(ServerError, match=r"tensor was received instead of image|cannot be read"),
    ):
        client.pool_image(X, MaxPool2d(2))


@pytest.mark.parametrize("method", ["pool", "server_info", "health"])
async def test_a_missing_server_is_reported_immediately(method: str) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        arguments = (X, MaxPool2d(2)) if method == "pool" else ()
        started = time.monotonic()
        message = rf"no server answers at {address}; is poolservice-server running there\? .*refused"
        with PoolClient(address) as client, pytest.raises(Unavailable, match=message):
            getattr(client, method)(*arguments)
        async with AsyncPoolClient(address) as aclient:
            with pytest.raises(Unavailable, match=message):
                await getattr(aclient, method)(*arguments)
        assert time.monotonic() - started < 20


def test_a_server_that_accepts_and_stays_silent_is_reported_within_seconds() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with PoolClient(address) as client, pytest.raises(Unavailable, match=f"no server answers at {address}"):
            client.pool(X, MaxPool2d(2))
        # gRPC's own limit is 20 s.
        assert time.monotonic() - started < 15
        # Four of the call, and a few of worker discovery: no busy loop.
        assert 4 <= accepted(silent) <= 20


def accepted(listener: socket.socket) -> int:
    """Return the number of connections that wait to be accepted."""
    listener.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def test_a_name_that_does_not_resolve_is_reported() -> None:
    with (
        PoolClient("no-such-host.invalid:50051", timeout=20) as client,
        pytest.raises((Unavailable, DeadlineExceeded), match=r"no-such-host\.invalid:50051"),
    ):
        client.health()


def test_a_request_over_the_clients_limit_says_how_to_raise_it(server_address: str) -> None:
    with (
        PoolClient(server_address, max_message_bytes=1000) as client,
        pytest.raises(InvalidRequest, match=r"over this client's limit of 1000; raise it with max_message_bytes="),
    ):
        client.pool(np.ones((2, 32, 32), np.float32), GlobalAvgPool2d())


async def test_a_response_over_the_clients_limit_says_how_to_raise_it(server_address: str) -> None:
    message = "the response has .* bytes, over this client's limit of 5000; raise it with max_message_bytes="
    x = np.ones((2, 32, 32), np.uint8)
    # The indices, which are int64, make the response larger than the limit.
    spec = MaxPool2d(1, return_indices=True)
    with PoolClient(server_address, max_message_bytes=5000) as client, pytest.raises(InvalidRequest, match=message):
        client.pool(x, spec)
    async with AsyncPoolClient(server_address, max_message_bytes=5000) as aclient:
        with pytest.raises(InvalidRequest, match=message):
            await aclient.pool(x, spec)


def test_a_message_over_the_servers_limit_says_how_to_raise_it(start_server: Callable[..., Any]) -> None:
    address = start_server("--max-message-bytes", "100000").address
    with PoolClient(address) as client:
        for size in (2**17, 2**20):
            with pytest.raises(InvalidRequest, match=r"over th.* server's limit of .*--max-message-bytes"):
                client.pool(np.ones((1, size), np.float32)[None], GlobalAvgPool2d())
        with pytest.raises(InvalidRequest, match=r"over th.* server's limit of .*--max-message-bytes"):
            client.pool(np.ones((1, 250, 250), np.uint8), MaxPool2d(1, return_indices=True))
