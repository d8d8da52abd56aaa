"""The return of free memory to the kernel."""

import subprocess
import sys

import pytest

from poolservice_server.allocator import MemoryReturn

MIB = 2**20

# Prints the resident memory with many blocks, and after they were freed and the memory was returned.
FREE_AND_TRIM = """
from poolservice_server.allocator import keep_large_messages, resident_bytes, trim
if keep_large_messages():
    blocks = [bytes([1]) * 2**20 for _ in range(128)]
    last = bytes(1000)
    with_blocks = resident_bytes()
    del blocks
    trim()
    print(with_blocks, resident_bytes())
    assert len(last) == 1000
else:
    print("not glibc")
"""


class Process:
    """A process with numbers that a test sets."""

    def __init__(self) -> None:
        self.used = 0
        self.resident = 100 * MIB
        # Resident memory that cannot be returned.
        self.in_use = 0
        self.trims = 0
        self.memory_return = MemoryReturn(lambda: self.used, lambda: self.resident, self.trim)

    def trim(self) -> None:
        self.trims += 1
        self.resident = max(self.in_use, 100 * MIB)

    def check(self) -> None:
        thread = self.memory_return.check()
        if thread is not None:
            thread.join()


@pytest.fixture
async def process() -> Process:
    process = Process()
    process.memory_return.start()
    process.memory_return.stop()
    return process


async def test_memory_returns_after_a_burst(process: Process) -> None:
    process.used, process.resident = 400 * MIB, 600 * MIB
    for _ in range(3):
        process.check()
    assert process.trims == 0
    process.used = 0
    process.check()
    assert process.trims == 0
    process.check()
    assert process.trims == 1


async def test_nothing_is_returned_while_little_is_kept(process: Process) -> None:
    process.resident = 150 * MIB
    for _ in range(3):
        process.check()
    assert process.trims == 0


async def test_memory_that_stays_resident_is_returned_at_growing_intervals(process: Process) -> None:
    process.resident = process.in_use = 200 * MIB
    trims = []
    for _ in range(30):
        process.check()
        trims.append(process.trims)
    assert [trims.index(number) for number in range(1, 6)] == [1, 3, 6, 11, 20]
    # Once it is free, it is returned at the next interval, and then no more.
    process.in_use = 0
    for _ in range(60):
        process.check()
    assert process.resident == 100 * MIB
    assert process.trims == 6


async def test_intervals_start_anew_after_the_server_was_busy(process: Process) -> None:
    process.resident = process.in_use = 200 * MIB
    for _ in range(20):
        process.check()
    trims = process.trims
    process.used = 400 * MIB
    process.check()
    process.used = process.in_use = 0
    process.check()
    process.check()
    assert process.trims == trims + 1


def test_trim_returns_the_memory_of_freed_blocks() -> None:
    # In a process of its own, because the setting cannot be undone, and other tests leave their blocks behind.
    done = subprocess.run([sys.executable, "-c", FREE_AND_TRIM], capture_output=True, text=True, check=True)
    if done.stdout == "not glibc\n":
        pytest.skip("the C library is not glibc")
    with_blocks, trimmed = map(int, done.stdout.split())
    assert trimmed < with_blocks - 100 * MIB
