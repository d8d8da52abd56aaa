"""The limit on open files: the server raises it to the connections that it accepts, as far as it may."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from poolservice_server.testing import Service

StartServer = Callable[..., Service]


def with_limits(soft: int, hard: int) -> tuple[str, ...]:
    """Return the command of a server that starts with these limits."""
    script = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
    return "bash", "-c", script, "-", sys.executable, "-m", "poolservice_server"


def limits_of(service: Service) -> tuple[int, int]:
    found = re.search(r"Max open files +(\d+) +(\d+)", Path(f"/proc/{service.process.pid}/limits").read_text())
    assert found
    return int(found[1]), int(found[2])


def test_the_limit_on_open_files_is_raised_to_the_connections(start_server: StartServer) -> None:
    service = start_server("--max-connections", "200", command=with_limits(100, 300))
    assert limits_of(service) == (264, 300)
    assert "open files" not in service.log()


def test_a_limit_that_is_too_low_is_logged_and_the_server_starts(start_server: StartServer) -> None:
    service = start_server("--max-connections", "400", command=with_limits(100, 300))
    assert limits_of(service) == (300, 300)
    assert "the limit on open files allows fewer connections than --max-connections" in service.log()
    assert "limit=300 needed=464" in service.log()
