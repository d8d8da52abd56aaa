"""Servers as child processes: started on a free port, watched, and always stopped."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

_HERE = Path(__file__).parent
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0

POOLSERVICE = ("-m", "poolservice_server", "--address", "127.0.0.1:0", "--device", "cpu")
PLAIN = (str(_HERE / "plain_server.py"),)
ECHO = (str(_HERE / "echo_server.py"),)


class Server:
    """A running server.

    Attributes:
        address: HOST:PORT.
    """

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.address = address
        self._process = psutil.Process(process.pid)

    def cpu_seconds(self) -> dict[int, float]:
        """CPU time, user and system, of each of its processes so far."""
        processes = [self._process, *self._process.children(recursive=True)]
        return {process.pid: sum(process.cpu_times()[:2]) for process in processes}

    def thread_seconds(self) -> dict[int, dict[int, float]]:
        """CPU time of each thread of each of its processes so far."""
        processes = [self._process, *self._process.children(recursive=True)]
        return {
            process.pid: {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
            for process in processes
        }

    def forget_peak(self) -> None:
        """Take the peak of its memory anew from here."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The most resident memory that it had since then."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("this kernel does not tell a process's peak memory (VmHWM)")


@contextmanager
def running(*arguments: str, log: IO[str] | None = None) -> Iterator[Server]:
    """A server that is stopped at the end of the block, however that comes.

    Args:
        arguments: for Python; the server prints one line that ends with its address once it serves.
        log: where its standard error goes; nowhere if not given.

    Raises:
        RuntimeError: it did not serve.
    """
    # A session of its own, so that Ctrl-C reaches this process only, which then stops it.
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=log or subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("POOLSERVICE_")},
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
        words = process.stdout.readline().split() if ready else []
        if not words:
            raise RuntimeError(f"{' '.join(arguments)} did not serve within {_START_SECONDS:.0f} s")
        yield Server(process, words[-1])
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that the servers are stopped."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
