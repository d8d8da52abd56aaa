"""A real service for the tests of what calls it: a process of its own on a free port.

    with serve() as service, PoolClient(service.address) as client:
        ...

or, with pytest, ``pytest_plugins = ["poolservice_server.testing.plugin"]`` and the fixture `pool_service`.

A process, not a thread: grpc.aio's servers and clients share a poller within a process, and a test that forks would
take half a server with it.
"""

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

#: How long a service has to start, most of which is torch's import, and to stop.
START_SECONDS = 60.0
STOP_SECONDS = 60.0

_COMMAND = (sys.executable, "-m", "poolservice_server")


class ServiceFailed(Exception):
    """The service did not start, or did not stop as it should; with what it logged."""


class Service:
    """A running service.

    Attributes:
        address: where it listens, for a client.
        banner: the line that it printed once it served: version, device, address.
        process: the process itself.
    """

    def __init__(self, process: "subprocess.Popen[str]", log: Path, banner: str) -> None:
        self.process = process
        self.banner = banner
        self.address = banner.split()[-1]
        self._log = log

    def log(self) -> str:
        """What it has logged until now."""
        return self._log.read_text()

    def stop(self) -> int:
        """Ask it to stop, as an orchestrator does, and wait: what it has accepted is answered first.

        Returns:
            Its exit status: 0 where it stopped in good order.
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
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()


@contextmanager
def serve(*flags: str, env: Mapping[str, str] | None = None, command: Sequence[str] = _COMMAND) -> Iterator[Service]:
    """Start a service and stop it at the end of the block.

    Args:
        flags: `poolservice-server`'s own; the address is a free port of this machine unless they name one.
        env: variables beside this process's.
        command: what is started, where it is not the server as installed.

    Raises:
        ServiceFailed: it does not serve within `START_SECONDS`, or does not stop with exit status 0.
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


def _start(command: Sequence[str], env: Mapping[str, str], log: Path) -> Service:
    with log.open("w") as stderr:
        process = subprocess.Popen(  # noqa: S603 - the server's own command, or the caller's
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **env},
        )
    stdout = cast(IO[str], process.stdout)
    started = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        banner = stdout.readline().strip() if selector.select(START_SECONDS) else ""
    if not banner:
        process.kill()
        status = process.wait()
        stdout.close()
        waited = time.monotonic() - started
        raise ServiceFailed(f"the service did not serve ({waited:.0f} s, exit status {status}):\n{log.read_text()}")
    return Service(process, log, banner)
