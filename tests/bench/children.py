"""Run servers as child processes: on a free port, with CPU and memory accounting, always stopped at the end."""

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
MOSEC = (str(_HERE / "mosec_server.py"),)


class Server:
    """A running server.

    Attributes:
        address: HOST:PORT.
    """

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.address = address
        self._process = psutil.Process(process.pid)

    def cpu_seconds(self) -> dict[int, float]:
        """Return the CPU time so far, user and system, of the server and its child processes, by process id."""
        processes = [self._process, *self._process.children(recursive=True)]
        return {process.pid: sum(process.cpu_times()[:2]) for process in processes}

    def thread_seconds(self) -> dict[int, dict[int, float]]:
        """Return the CPU time so far of each thread, by process id and thread id."""
        processes = [self._process, *self._process.children(recursive=True)]
        return {
            process.pid: {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
            for process in processes
        }

    def reset_peak_memory(self) -> None:
        """Start measuring the peak resident memory anew."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def peak_memory_bytes(self) -> int:
        """Return the peak resident memory of the first process since `reset_peak_memory`."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("this kernel does not report the peak memory of a process (VmHWM in /proc/PID/status)")


@contextmanager
def running(*arguments: str, log: IO[str] | None = None) -> Iterator[Server]:
    """Start a server and stop it at the end of the block, also after an error or Ctrl-C.

    Args:
        arguments: for Python. Once the server is ready, it prints one line that ends with its address.
        log: receives the server's standard error. Default: discarded.

    Raises:
        RuntimeError: the server did not become ready.
    """
    # In its own session, so that Ctrl-C reaches only this process, which then stops the server.
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
            raise RuntimeError(f"{' '.join(arguments)} was not ready within {_START_SECONDS:.0f} s")
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
    """Make SIGTERM unwind the stack as Ctrl-C does, so that the servers are stopped."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
