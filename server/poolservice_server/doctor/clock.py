"""The clock of this machine."""

from collections.abc import Iterator
from datetime import UTC, datetime

from poolservice_server.doctor.finding import Finding, ok, problem
from poolservice_server.doctor.machine import Machine
from poolservice_server.settings import Settings

# No earlier time is possible: this program did not exist.
_EARLIEST = datetime(2026, 11, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def check_clock(_settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Check that the clock tells a possible time. Certificates and logs depend on it; deadlines do not."""
    now = datetime.fromtimestamp(machine.now(), UTC)
    if _EARLIEST <= now < _LATEST:
        yield ok("clock", f"the clock says {now:%Y-%m-%d %H:%M:%S} UTC")
    else:
        yield problem(
            "clock",
            f"the clock says {now:%Y-%m-%d %H:%M} UTC, which cannot be: certificates seem invalid, and log lines have "
            "wrong times; start time synchronization (chrony, systemd-timesyncd)",
        )
