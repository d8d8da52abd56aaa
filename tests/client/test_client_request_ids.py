"""The request id of errors: the id under which the server's log has the call."""

import asyncio
import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from tests.client.conftest import AwaitableClient, Behaviour

from poolservice_client import (
    AsyncPoolClient,
    DeadlineExceeded,
    InvalidRequest,
    MaxPool2d,
    Overloaded,
    PoolClient,
    PoolError,
    ServerError,
    Unauthenticated,
    Unavailable,
)

MakeClient = Callable[..., AwaitableClient]

X = np.zeros((3, 4, 4), np.float32)
SERVER_ID = re.compile(r"[0-9a-f]{12}-[0-9a-f]+")


def failing(details: bytes | None, trailing: str | None) -> Behaviour:
    """Return the behaviour of a server that fails, with an id in its status and in its trailing metadata."""

    def fail(_request: bytes, context: grpc.ServicerContext) -> bytes:
        metadata: list[tuple[str, str | bytes]] = []
        if details is not None:
            metadata.append(("grpc-status-details-bin", details))
        if trailing is not None:
            metadata.append(("x-request-id", trailing))
        context.set_trailing_metadata(tuple(metadata))
        context.abort(grpc.StatusCode.INTERNAL, "it broke")

    return fail


def status_with(request_id: str) -> bytes:
    status = status_pb2.Status(code=code_pb2.INTERNAL, message="it broke")
    status.details.add().Pack(error_details_pb2.RequestInfo(request_id=request_id))
    encoded: bytes = status.SerializeToString()
    return encoded


async def test_an_error_has_the_id_of_the_call(make_client: MakeClient, server_address: str) -> None:
    async with make_client(server_address) as client:
        with pytest.raises(InvalidRequest) as raised:
            await client.pool(timeout=-1)
        # The SDK found this error itself.
        assert raised.value.request_id is None
        with pytest.raises(InvalidRequest) as raised:
            await client.pool(dtype="float16", output="image")
    assert raised.value.request_id is not None
    assert SERVER_ID.fullmatch(raised.value.request_id)


async def test_an_id_in_the_metadata_of_the_client_is_used(make_client: MakeClient, server_address: str) -> None:
    async with make_client(server_address, metadata=[("x-request-id", "job-7")]) as client:
        with pytest.raises(InvalidRequest) as raised:
            await client.pool(dtype="float16", output="image")
    assert raised.value.request_id == "job-7"


async def test_without_a_response_there_is_no_id(make_client: MakeClient, free_port: Callable[[], int]) -> None:
    async with make_client(f"127.0.0.1:{free_port()}", retries=None) as client:
        with pytest.raises((Unavailable, DeadlineExceeded)) as raised:
            await client.pool(timeout=5)
    assert raised.value.request_id is None


async def test_each_coalesced_call_has_the_id_of_its_message(server_address: str) -> None:
    async with AsyncPoolClient(server_address) as client:
        calls = [client.pool(X, MaxPool2d(9 if number % 2 else 2)) for number in range(8)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert client.stats().coalesced_messages
    errors = [one for one in outcomes if isinstance(one, PoolError)]
    assert len(errors) == 4
    assert all(one.request_id and SERVER_ID.fullmatch(one.request_id) for one in errors)


def test_the_items_of_a_map_that_fail_have_the_id_of_their_message(server_address: str) -> None:
    with PoolClient(server_address) as client:
        items = list(client.map([X, b"no image", X], MaxPool2d(2), items=True))
    assert [item.error is None for item in items] == [True, False, True]
    error = items[1].error
    assert error is not None
    assert error.request_id is not None
    assert SERVER_ID.fullmatch(error.request_id)


def test_an_error_about_a_file_keeps_its_id(server_address: str, tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with PoolClient(server_address) as client, pytest.raises(InvalidRequest, match=r"image\.png") as raised:
        client.pool(file, MaxPool2d(2))
    assert raised.value.request_id is not None


@pytest.mark.parametrize(
    ("details", "trailing", "expected"),
    [
        (status_with("from-status"), "from-metadata", "from-status"),
        (None, "from-a-proxy", "from-a-proxy"),
        (status_with("two words"), "valid", "valid"),
        (status_with("x" * 10_000), None, None),
        (status_with("\x1b[31m\n"), "two words", None),
        (b"\xff", "valid", "valid"),
        (None, None, None),
    ],
)
async def test_only_short_visible_ids_are_accepted(
    make_client: MakeClient,
    serve: Callable[[Behaviour], str],
    details: bytes | None,
    trailing: str | None,
    expected: str | None,
) -> None:
    async with make_client(serve(failing(details, trailing)), retries=None) as client:
        with pytest.raises(ServerError) as raised:
            await client.pool()
    assert raised.value.request_id == expected


@pytest.mark.parametrize(
    "error",
    [
        DeadlineExceeded("too late"),
        InvalidRequest("wrong", field="x"),
        Overloaded("full", retry_after=0.25),
        PoolError("failed"),
        ServerError("it broke", error_id="abc"),
        Unauthenticated("no token"),
        Unavailable("gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_keep_their_id_when_they_are_pickled_or_copied(error: PoolError) -> None:
    assert error.request_id is None
    error.request_id = "job-7"
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)
