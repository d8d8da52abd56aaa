"""Clients in forked processes: they work or raise an error that says what to do, and they never hang."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest


def run(program: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Run a program in a new process, because the state of gRPC depends on all earlier calls in the process."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PRELUDE = """
import asyncio, multiprocessing, os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import numpy as np
from poolservice_client import AsyncPoolClient, MaxPool2d, PoolClient, PoolError
X = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
SPEC = MaxPool2d(2)

def in_a_child(work):
    # Returns the exit code of the child: 0 if the work ended. An alarm ends a child that hangs.
    pid = os.fork()
    if pid == 0:
        signal.alarm(25)
        work()
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def check(client):
    assert (client.pool(X, SPEC) == X[:, 1::2, 1::2]).all()

"""


def test_a_client_survives_forks_before_and_after_its_first_call(server_address: str) -> None:
    program = """
client = PoolClient(sys.argv[1])
print(in_a_child(lambda: check(client)))
check(client)
for _ in range(3):
    print(in_a_child(lambda: check(client)))
    check(client)
print(in_a_child(lambda: print(in_a_child(lambda: check(client)), flush=True)))
client.close()
"""
    assert run(program, server_address).split() == ["0"] * 6


def test_forks_while_threads_make_calls(server_address: str) -> None:
    program = """
client = PoolClient(sys.argv[1])
stop = threading.Event()
failed = []

def call():
    try:
        while not stop.is_set():
            check(client)
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads:
    thread.start()
ends = [in_a_child(lambda: check(client)) for _ in range(8)]
stop.set()
for thread in threads:
    thread.join()
client.close()
print(ends, failed)
"""
    assert run(program, server_address).split("\n")[-2] == f"{[0] * 8} []"


def test_a_fork_resets_the_counters(server_address: str) -> None:
    program = """
client = PoolClient(sys.argv[1])
check(client)
check(client)
in_a_child(lambda: (check(client), print(client.stats().calls, client.stats().connections, flush=True)))
client.close()
in_a_child(lambda: print(client.stats().connections, flush=True))
"""
    assert run(program, server_address).split() == ["1", "1", "0"]


def test_workers_of_a_multiprocessing_pool_use_the_client_of_their_parent(server_address: str) -> None:
    program = """
client = PoolClient(sys.argv[1])
check(client)

def mean(number):
    return float(client.pool(np.full((1, 2, 2), number, np.float32), SPEC).mean())

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(mean, range(20)) == list(map(float, range(20))))
    check(client)
    client.close()
"""
    assert run(program, server_address).split() == ["True"]


def test_a_fork_during_a_long_call_makes_calls_in_the_child_fail_with_advice(
    start_server: Callable[..., Any],
) -> None:
    address = start_server("--max-batch-delay", "6").address
    program = """
client = PoolClient(sys.argv[1])
client.health()
thread = threading.Thread(target=lambda: check(client))
thread.start()
# The call runs for seconds longer. A fork at its very start would only delay it.
thread.join(1.5)
assert thread.is_alive()

def in_child():
    try:
        client.pool(X, SPEC)
    except PoolError as error:
        print(error, flush=True)

print(in_a_child(in_child))
thread.join()
client.close()
"""
    output = run(program, address)
    assert "was forked while a gRPC call of another thread was running" in output
    assert '"spawn" or "forkserver"' in output
    assert output.split("\n")[-2] == "0"


def test_an_asyncio_client_works_in_a_child_if_the_parent_did_not_use_it(server_address: str) -> None:
    program = """
aclient = AsyncPoolClient(sys.argv[1])

async def use():
    assert (await aclient.pool(X, SPEC) == X[:, 1::2, 1::2]).all()
    await aclient.close()

print(in_a_child(lambda: asyncio.run(use())))
asyncio.run(use())
"""
    assert run(program, server_address).split() == ["0"]


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
def test_a_fork_after_asyncio_calls_makes_calls_in_the_child_fail_with_advice(server_address: str, kind: str) -> None:
    program = """
aclient = AsyncPoolClient(sys.argv[1])

async def use(aclient):
    await aclient.pool(X, SPEC)

def in_child():
    try:
        if sys.argv[2] == "asyncio":
            asyncio.run(use(aclient))
        else:
            PoolClient(sys.argv[1]).pool(X, SPEC)
    except PoolError as error:
        print(error, flush=True)
        os._exit(0)

loop = asyncio.new_event_loop()
loop.run_until_complete(use(aclient))
print(in_a_child(in_child))
loop.run_until_complete(use(aclient))
loop.run_until_complete(aclient.close())
"""
    output = run(program, server_address, kind)
    assert "forked from one that used gRPC's asyncio API" in output
    assert output.split("\n")[-2] == "0"


def test_a_fork_without_grpcs_fork_support_is_detected(server_address: str) -> None:
    program = """
client = PoolClient(sys.argv[1])
check(client)

def in_child():
    try:
        check(client)
    except PoolError as error:
        print(error, flush=True)
        os._exit(0)

print(in_a_child(in_child))
client.close()
"""
    output = run(program, server_address, env={"GRPC_ENABLE_FORK_SUPPORT": "0"})
    assert "forked from one that used gRPC, which fails here" in output
    assert output.split("\n")[-2] == "0"


@pytest.mark.parametrize("where", ["dataset", "collate"])
def test_a_data_loader_with_workers_uses_the_client(server_address: str, where: str) -> None:
    program = """
import torch
from torch.utils.data import DataLoader, Dataset

client = PoolClient(sys.argv[1])

class Maps(Dataset):
    def __len__(self):
        return 24
    def __getitem__(self, index):
        x = np.full((2, 4, 4), index, np.float32)
        return client.pool(x, SPEC) if sys.argv[2] == "dataset" else x

def collate(maps):
    return torch.from_numpy(client.pool(np.stack(maps), SPEC))

options = {} if sys.argv[2] == "dataset" else {"collate_fn": collate}
client.health()
loader = DataLoader(Maps(), batch_size=4, num_workers=2, multiprocessing_context="fork", timeout=25, **options)
for _ in range(2):
    batches = list(loader)
    assert torch.cat(batches).shape == (24, 2, 2, 2)
    assert (torch.cat(batches)[:, 0, 0, 0] == torch.arange(24)).all()
    check(client)
client.close()
print("done")
"""
    assert run(program, server_address, where).split()[-1] == "done"
