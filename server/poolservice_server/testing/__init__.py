"""A real service for tests of programs that call it: a process of its own on a free port.

    with serve() as service, PoolClient(service.address) as client:
        ...

With pytest, use ``pytest_plugins = ["poolservice_server.testing.plugin"]`` and the fixture `pool_service`.

The service is a process, not a thread, because the grpc.aio servers and clients of one process share a polling thread,
and because a test that forks would copy half a server.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

__all__ = ["START_SECONDS", "STOP_SECONDS", "Service", "ServiceFailed", "serve"]

#: The longest time for a start, most of which is the import of torch, and for a stop.
START_SECONDS = 60.0
STOP_SECONDS = 60.0

_COMMAND = (sys.executable, "-m", "poolservice_server")
_SETTINGS_PREFIX = "POOLSERVICE_"


class ServiceFailed(Exception):
    """The service did not start, or stopped with an error; the message contains its log."""


class Service:
    """A running service.

    Attributes:
        address: its address, for a client.
        ready_line: the line that it printed when it was ready: version, device, address.
        process: the process.
    """

    def __init__(self, process: "subprocess.Popen[str]", log: Path, ready_line: str) -> None:
        self.process = process
        self.ready_line = ready_line
        # With --log-format json, the line is JSON.
        self.address = json.loads(ready_line)["address"] if ready_line.startswith("{") else ready_line.split()[-1]
        self._log = log

    def log(self) -> str:
        """Return everything that the service has logged so far."""
        return self._log.read_text(errors="backslashreplace")

    def stop(self) -> int:
        """Send SIGTERM, as an orchestrator does, and wait; the service finishes its accepted requests first.

        Returns:
            The exit status: 0 after an orderly stop.

        Raises:
            ServiceFailed: the service did not stop within `STOP_SECONDS`; it has been killed.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServiceFailed(f"the service did not stop within {STOP_SECONDS:.0f} s:\n{self.log()}") from None
        return status

    def kill(self) -> None:
        """Kill the process and its workers, as a crash of the machine would, and wait for the end of the process."""
        _kill(self.process)


@contextmanager
def serve(*flags: str, env: Mapping[str, str] | None = None, command: Sequence[str] = _COMMAND) -> Iterator[Service]:
    """Start a service, and stop it at the end of the block.

    Args:
        flags: flags of `poolservice-server`. Without --address, the service listens on a free port of this machine.
        env: environment variables to add. The service gets those of this process too, except for the settings
            (POOLSERVICE_*), so that a test does not depend on them.
        command: the command to run instead of the installed server.

    Raises:
        ServiceFailed: the service is not ready within `START_SECONDS`, or its exit status is not 0.
    """
    with tempfile.TemporaryDirectory(prefix="poolservice-") as folder:
        log = Path(folder) / "log"
        service = _start([*command, "--address", "127.0.0.1:0", *flags], env or {}, log)
        with cast(IO[str], service.process.stdout):
            try:
                yield service
            except BaseException:
                service.kill()
                raise
            if service.process.poll() is None and (status := service.stop()):
                raise ServiceFailed(f"the service ended with exit status {status}:\n{service.log()}")


def _kill(process: "subprocess.Popen[str]") -> int:
    """Kill the process and its workers, unless it has ended; return its exit status."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _start(command: Sequence[str], env: Mapping[str, str], log: Path) -> Service:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_PREFIX)}
    with log.open("w") as stderr:
        process = subprocess.Popen(  # noqa: S603 - the server's own command, or the caller's
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**inherited, **env},
            # A group of its own, so that the process can be killed together with its workers.
            process_group=0,
        )
    stdout = cast(IO[str], process.stdout)
    started = time.monotonic()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            ready_line = stdout.readline().strip() if selector.select(START_SECONDS) else ""
    except BaseException:
        # Ctrl-C does not reach the process, which is in a group of its own.
        _kill(process)
        stdout.close()
        raise
    if not ready_line:
        status = _kill(process)
        stdout.close()
        seconds = time.monotonic() - started
        raise ServiceFailed(
            f"the service was not ready after {seconds:.0f} s (exit status {status}):\n{log.read_text()}"
        )
    return Service(process, log, ready_line)
