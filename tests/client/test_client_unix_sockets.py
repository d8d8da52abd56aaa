"""Addresses of Unix sockets: which are accepted, and what errors say about those without a server."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poolservice_client import AsyncPoolClient, InvalidRequest, PoolClient, Unavailable

MakeClient = Callable[..., Any]


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("unix:", "has 1 to 107 bytes; got 0 bytes"),
        ("unix:/" + "x" * 107, "has 1 to 107 bytes; got 108 bytes"),
        ("unix:/" + "ü" * 54, "has 1 to 107 bytes; got 109 bytes"),
        ("unix-abstract:" + "x" * 108, "the name of a Unix socket has 1 to 107 bytes; got 108 bytes"),
        ("unix://host/path", "without a host before the path"),
        ("unix:/tmp/a?b", "where gRPC would end it; write %3F"),
        ("unix:/tmp/a#b", "where gRPC would end it; write %23"),
        ("unix:/tmp/a\0b", "must have printable characters only"),
        (["localhost:1\n"], "must have printable characters only"),
    ],
)
def test_an_address_that_no_socket_can_have_is_refused(client_class: type[Any], address: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        client_class(address)
    assert raised.value.field == "address"
    assert problem in raised.value.reason


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
@pytest.mark.parametrize("address", ["unix:///", "unix:/" + "x" * 106, "unix:/" + "%FC" * 106])
def test_a_path_that_a_socket_can_have_is_accepted(client_class: type[Any], address: str) -> None:
    client_class(address)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a file, a folder, and a socket on which no process listens."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing", "the Unix socket {} does not exist"),
        ("file", "{} is a file, not a Unix socket"),
        ("folder", "{} is a folder, not a Unix socket"),
        ("socket", "no process listens on the Unix socket {}"),
    ],
)
async def test_the_error_says_why_no_server_answers_at_a_socket(
    folder: Path, make_client: MakeClient, name: str, problem: str
) -> None:
    for address in (f"unix:{name}", f"unix:./{name}"):
        async with make_client(address, timeout=10) as client:
            with pytest.raises(Unavailable) as raised:
                await client.healthy()
        assert problem.format(folder / name) in str(raised.value)


async def test_a_percent_encoded_path_reaches_the_socket_of_that_name(folder: Path, make_client: MakeClient) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("a ?.sock")
        listening.listen()
        async with make_client("unix:a %3F.sock", timeout=10) as client:
            call = asyncio.create_task(client.healthy())
            peer, _ = await asyncio.to_thread(listening.accept)
            peer.close()
            listening.close()
            os.unlink("a ?.sock")
            with pytest.raises(Unavailable):
                await call
