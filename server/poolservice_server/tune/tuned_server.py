"""A real server with some settings, on a free port of this machine."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from poolservice_server.testing import ServiceFailed, serve

#: Values of settings that differ from the user's, by name.
Changes = Mapping[str, float]

# Whatever the settings say, the measured server is on this machine, without TLS, tokens, metrics and traces.
_OWN_FLAGS = (
    *("--tls-certificate", "none", "--tls-key", "none", "--tls-client-ca", "none"),
    *("--auth-token-file", "none", "--metrics-address", "none", "--metrics-token-file", "none"),
    *("--otlp-endpoint", "none"),
    *("--log-level", "warning", "--log-format", "text", "--address", "127.0.0.1:0"),
)


class CannotStart(Exception):
    """A server does not start with some settings. The message is its last words."""


class TunedServer:
    """A running server; use it as a context manager.

    Args:
        flags: the flags that the user gave; the environment's settings count, too.
        changes: the settings to change, by name.

    Raises:
        CannotStart: the server does not start with these settings.
    """

    def __init__(self, flags: Sequence[str], changes: Changes) -> None:
        self._stack = ExitStack()
        environment = {name: value for name, value in os.environ.items() if name.startswith("POOLSERVICE_")}
        environment["OTEL_SDK_DISABLED"] = "true"
        own = (word for name, value in changes.items() for word in (f"--{name.replace('_', '-')}", str(value)))
        try:
            self._service = self._stack.enter_context(serve(*flags, *_OWN_FLAGS, *own, env=environment))
        except ServiceFailed as failed:
            raise CannotStart(str(failed).strip().splitlines()[-1].removeprefix("poolservice-server: ")) from None
        self.address = self._service.address
        self.ready_line = self._service.ready_line

    def __enter__(self) -> Self:
        """Return the server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        self.stop()

    def stop(self) -> None:
        """Kill the server, unless it has stopped: nobody waits for it any more."""
        self._service.kill()
        self._stack.close()

    @property
    def runs_on_cpu(self) -> bool:
        """Return True if the server computes on the CPU."""
        return " on cpu (" in self.ready_line

    def memory_bytes(self) -> int:
        """Return the resident memory of the server's processes together; 0 where /proc does not tell."""
        return sum(map(_resident_bytes, _processes_of_group(self._service.process.pid)))


def _processes_of_group(group: int) -> list[Path]:
    return [process for process in Path("/proc").glob("[0-9]*") if _group(process) == group]


def _group(process: Path) -> int:
    try:
        # The name of the program, in parentheses, may have spaces.
        return int((process / "stat").read_text().rpartition(")")[2].split()[2])
    except (OSError, ValueError, IndexError):
        return 0


def _resident_bytes(process: Path) -> int:
    try:
        return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
