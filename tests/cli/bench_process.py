"""`poolservice bench` as a process with a terminal, on which it shows what it measures."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bench_process(address: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], None]]]:
    """Start the command with a terminal as stderr; yield the process and a function that waits for words on it."""
    terminal, stderr = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "poolservice_client", "bench", address, "--shape", "8x8x8", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    os.close(stderr)

    def wait_for(words: str) -> None:
        read = ""
        while words not in read:
            read += os.read(terminal, 4096).decode()

    try:
        yield process, wait_for
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
