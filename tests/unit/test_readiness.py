"""Readiness: what the devices do, and what follows for the process and its backbones."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from poolservice_server.readiness import Readiness

# The ticks of these tests are calls.
_NEVER = 86_400.0

# More ticks than anything needs that a tick can bring about.
_MANY = 20


class FakeBackend:
    """A backend that fails or hangs on request."""

    def __init__(self) -> None:
        self.suspected_backbones: set[str] = set()
        self.payloads = 0
        self.is_available = True
        self.error = ""
        self.checks = 0
        self.broken_backbones: set[str] = set()
        self.backbone_checks: list[str] = []
        self.released = threading.Event()
        self.released.set()

    def check(self) -> None:
        """Raise the error, once the backend is released."""
        self.checks += 1
        self.released.wait()
        if self.error:
            raise RuntimeError(self.error)

    def check_backbone(self, name: str) -> None:
        """Raise an error if the backbone is broken, once the backend is released."""
        self.backbone_checks.append(name)
        self.released.wait()
        if name in self.broken_backbones:
            raise RuntimeError("broken")


class Changes:
    """The readiness after each change."""

    def __init__(self, readiness: Readiness) -> None:
        self.seen: list[bool] = []
        self._readiness = readiness
        self._event = asyncio.Event()
        readiness.on_change = self._add

    def _add(self) -> None:
        self.seen.append(self._readiness.is_ready)
        self._event.set()

    async def next(self) -> None:
        """Wait for a change since the last wait."""
        await self._event.wait()
        self._event.clear()


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    """A backend that works; it is released at the end."""
    backend = FakeBackend()
    yield backend
    backend.released.set()


@pytest.fixture
async def readiness(backend: FakeBackend) -> AsyncIterator[Readiness]:
    """The readiness of a process that has started."""
    readiness = Readiness(backend, tick_seconds=_NEVER)
    await readiness.start()
    yield readiness
    readiness.drain()


async def _until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until a condition holds of which nothing tells."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def _ended(readiness: Readiness) -> None:
    """Wait until the readiness knows the outcome of its checks."""
    await _until(lambda: not readiness.is_checking)


async def _checked(readiness: Readiness, backend: FakeBackend) -> None:
    """Tick until a check has started, and wait until the readiness knows its outcome."""
    number = backend.checks
    while backend.checks == number:
        readiness.tick()
        # More ticks before the end of a check would mean that it is stuck.
        await _ended(readiness)


async def test_a_process_is_ready_once_it_has_computed_something(backend: FakeBackend) -> None:
    readiness = Readiness(backend, tick_seconds=_NEVER)
    changes = Changes(readiness)
    assert not readiness.serves("tiny")
    await readiness.start()
    assert changes.seen == [True]
    assert backend.checks == 1
    assert readiness.check_seconds > 0
    readiness.drain()


async def test_a_process_starts_unready_with_a_device_that_fails(backend: FakeBackend) -> None:
    backend.error = "no device"
    readiness = Readiness(backend, tick_seconds=_NEVER)
    await readiness.start()
    assert not readiness.is_ready
    assert readiness.check_seconds == 0
    readiness.drain()


async def test_the_event_loop_ticks_and_a_start_with_a_device_that_hangs_ends(backend: FakeBackend) -> None:
    backend.released.clear()
    readiness = Readiness(backend, tick_seconds=0.001)
    await readiness.start()
    assert not readiness.is_ready
    changes = Changes(readiness)
    backend.released.set()
    await changes.next()
    assert changes.seen == [True]
    readiness.drain()


async def test_a_busy_process_is_not_checked(backend: FakeBackend, readiness: Readiness) -> None:
    for _ in range(_MANY):
        backend.payloads += 1
        readiness.tick()
    assert backend.checks == 1


async def test_an_idle_process_is_checked_from_time_to_time(backend: FakeBackend, readiness: Readiness) -> None:
    await _checked(readiness, backend)
    await _checked(readiness, backend)
    assert backend.checks == 3
    assert readiness.is_ready


async def test_a_device_that_fails_makes_the_process_unready_until_it_works(
    backend: FakeBackend, readiness: Readiness
) -> None:
    changes = Changes(readiness)
    backend.error = "the device fell off the bus"
    await _checked(readiness, backend)
    await _checked(readiness, backend)
    assert not readiness.is_ready
    backend.error = ""
    await _checked(readiness, backend)
    assert changes.seen == [False, True]


async def test_an_unready_process_is_checked_at_each_tick(backend: FakeBackend, readiness: Readiness) -> None:
    backend.error = "the device fell off the bus"
    await _checked(readiness, backend)
    checks = backend.checks
    for number in range(1, 4):
        readiness.tick()
        await _ended(readiness)
        assert backend.checks == checks + number


async def test_suspended_devices_are_checked_although_batches_have_succeeded(
    backend: FakeBackend, readiness: Readiness
) -> None:
    backend.payloads += 1
    backend.is_available = False
    backend.error = "cuda:0: it fell off the bus"
    readiness.tick()
    await _ended(readiness)
    assert not readiness.is_ready


async def test_a_device_that_hangs_makes_the_process_unready_until_it_returns(
    backend: FakeBackend, readiness: Readiness
) -> None:
    changes = Changes(readiness)
    backend.released.clear()
    for _ in range(_MANY):
        readiness.tick()
    assert changes.seen == [False]
    # It hangs once: no further computation is started.
    await _until(lambda: backend.checks == 2)
    assert backend.checks == 2
    backend.released.set()
    await _ended(readiness)
    assert changes.seen == [False, True]


async def test_a_process_that_stops_stays_unready(backend: FakeBackend) -> None:
    readiness = Readiness(backend, tick_seconds=_NEVER)
    await readiness.start()
    changes = Changes(readiness)
    backend.released.clear()
    while not readiness.is_checking:
        readiness.tick()
    await _until(lambda: backend.checks == 2)
    readiness.drain()
    assert changes.seen == [False]
    backend.released.set()
    await _ended(readiness)
    assert changes.seen == [False]


async def _backbone_checked(readiness: Readiness, backend: FakeBackend) -> None:
    """Tick until a check of a backbone has started, and wait until the readiness knows its outcome."""
    number = len(backend.backbone_checks)
    while len(backend.backbone_checks) == number:
        readiness.tick()
        # More ticks before the end of a check would mean that it is stuck.
        await _ended(readiness)


async def test_a_backbone_that_works_on_its_known_input_serves_after_failed_runs(
    backend: FakeBackend, readiness: Readiness
) -> None:
    changes = Changes(readiness)
    backend.suspected_backbones.add("tiny")
    await _backbone_checked(readiness, backend)
    assert readiness.serves("tiny")
    assert not backend.suspected_backbones
    assert not changes.seen


async def test_a_backbone_that_fails_on_its_known_input_does_not_serve_until_it_works(
    backend: FakeBackend, readiness: Readiness
) -> None:
    changes = Changes(readiness)
    backend.broken_backbones.add("tiny")
    backend.suspected_backbones.add("tiny")
    await _backbone_checked(readiness, backend)
    await _backbone_checked(readiness, backend)
    assert not readiness.serves("tiny")
    assert readiness.serves("other")
    assert readiness.is_ready
    backend.broken_backbones.clear()
    await _backbone_checked(readiness, backend)
    assert readiness.serves("tiny")
    assert len(changes.seen) == 2


async def test_failing_runs_cannot_make_the_checks_of_a_backbone_frequent(
    backend: FakeBackend, readiness: Readiness
) -> None:
    for _ in range(_MANY):
        backend.suspected_backbones.add("tiny")
        readiness.tick()
        await _ended(readiness)
    assert 1 <= len(backend.backbone_checks) <= 2


async def test_no_backbone_serves_while_the_process_is_unready(backend: FakeBackend, readiness: Readiness) -> None:
    backend.error = "the device fell off the bus"
    await _checked(readiness, backend)
    assert not readiness.serves("tiny")
