"""Clients in processes that were not forked: they are pickled by their settings and connect anew."""

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from poolservice_client import TLS, AsyncPoolClient, MaxPool2d, PoolClient, RetryPolicy

if TYPE_CHECKING:
    from tests.client.conftest import Certificates

X = np.arange(48, dtype=np.float32).reshape(3, 4, 4)

OPTIONS: dict[str, Any] = {
    "timeout": 7.0,
    "coalesce": False,
    "retries": RetryPolicy(max_attempts=2),
    "token": "secret",
    "metadata": [("x-team", "search")],
    "proxy": "http://proxy.example.org:3128",
}

PROGRAM = """
import asyncio, multiprocessing, sys
from functools import partial
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from poolservice_client import AsyncPoolClient, MaxPool2d, PoolClient

SPEC = MaxPool2d(2)

def pool(client, number):
    return float(client.pool(np.full((1, 2, 2), number, np.float32), SPEC).mean())

async def pool_async(client, number):
    async with client:
        return float((await client.pool(np.full((1, 2, 2), number, np.float32), SPEC)).mean())

def pool_in_loop(client, number):
    return asyncio.run(pool_async(client, number))

class Maps(Dataset):
    def __init__(self, client):
        self.client = client
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return self.client.pool(np.full((2, 4, 4), index, np.float32), SPEC)

if __name__ == "__main__":
    address, method = sys.argv[1:]
    client = PoolClient(address)
    # The parent has used it, so it has open connections and background threads.
    assert pool(client, 3) == pool(client, 3) == 3
    with multiprocessing.get_context(method).Pool(2) as processes:
        assert processes.map(partial(pool, client), range(20)) == list(range(20))
        assert processes.map(partial(pool_in_loop, AsyncPoolClient(address)), range(4)) == list(range(4))
    loader = DataLoader(Maps(client), batch_size=4, num_workers=2, multiprocessing_context=method)
    assert (torch.cat(list(loader))[:, 0, 0, 0] == torch.arange(8)).all()
    client.close()
    print("done")
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_worker_processes_use_the_client_of_their_parent(server_address: str, tmp_path: Path, method: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), server_address, method], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["done"]


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
@pytest.mark.parametrize("duplicate", [lambda client: pickle.loads(pickle.dumps(client)), copy.copy, copy.deepcopy])
def test_a_copy_has_all_settings(
    certificates: "Certificates", client_class: type[Any], duplicate: Callable[[Any], Any]
) -> None:
    client = client_class("example.org:443", tls=TLS(ca=certificates.ca), **OPTIONS)
    made = duplicate(client)
    assert type(made) is client_class
    assert made._settings == client._settings
    assert ("authorization", "Bearer secret") in made._settings.metadata
    assert made._coalescers is None
    assert made._transport is not client._transport


def test_closing_a_copy_does_not_close_the_original(client: PoolClient) -> None:
    client.pool(X, MaxPool2d(2))
    with copy.copy(client) as made:
        assert made.stats().calls == 0
        np.testing.assert_array_equal(made.pool(X, MaxPool2d(2)), client.pool(X, MaxPool2d(2)))
    client.pool(X, MaxPool2d(2))


class Labeled(PoolClient):
    """A client with an attribute of its own."""

    label = ""


def test_a_subclass_keeps_its_attributes() -> None:
    client = Labeled("localhost:1")
    client.label = "mine"
    assert pickle.loads(pickle.dumps(client)).label == "mine"


class Locking(grpc.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details, request)


def test_interceptors_that_cannot_be_pickled_are_named() -> None:
    with (
        PoolClient("localhost:1", interceptors=[Locking()]) as client,
        pytest.raises(TypeError, match=r"this PoolClient cannot be pickled, because its interceptors cannot: .*lock"),
    ):
        pickle.dumps(client)


def test_a_function_that_refers_to_a_client_is_cloudpickled(server_address: str) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    client = PoolClient(server_address)
    client.pool(X, MaxPool2d(2))
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer)())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=cloudpickle.dumps(lambda: client.pool(X, MaxPool2d(2)).shape),
        capture_output=True,
        timeout=60,
        check=True,
    )
    client.close()
    assert done.stdout.split() == [b"(3,", b"2,", b"2)"]


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
@pytest.mark.parametrize("method", ["pool", "pool_image", "map"])
def test_errors_about_arguments_name_the_public_class(client_class: type[Any], method: str) -> None:
    name = f"{client_class.__name__}.{method}"
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'tiemout'"):
        getattr(client_class("localhost:1"), method)(X, MaxPool2d(2), tiemout=1)
    assert pickle.loads(pickle.dumps(getattr(client_class, method))) is getattr(client_class, method)
