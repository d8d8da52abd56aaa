"""Devices with little memory and a temper, which no machine has at a test's wish, and work for them."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from poolservice.specs import GlobalMaxPool1d
from poolservice_server.backend.device import DeviceFailed, DeviceOutOfMemory, DeviceResult
from poolservice_server.stages import BatchKey, PoolStage, SpecResult

KIND = BatchKey(PoolStage((GlobalMaxPool1d(),)), (2,), np.dtype(np.float32))

POISON = -1.0


class Poisoned(Exception):
    pass


@dataclass
class FakeDevice:
    """Doubles what it is given, and in a second result adds one to it."""

    name: str = "cuda:0"
    description: str = "a fake card"
    #: Bytes that fit.
    room: float = float("inf")
    #: Every k-th launch fails; 1 for all of them.
    fails_every: int | None = None
    #: What it says of everything, as a device that lacks a type does.
    refuses: Exception | None = None
    probes_right: bool = True
    launches: list[list[int]] = field(default_factory=list)
    probes: int = 0
    freed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, stage: PoolStage, items: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
        assert stage == KIND.stage
        with self.lock:
            self.launches.append([len(one) for one in items])
            number = len(self.launches)
        if self.refuses is not None:
            raise self.refuses
        if sum(one.nbytes for one in items) > self.room:
            raise DeviceOutOfMemory("the fake card is full")
        if self.fails_every and number % self.fails_every == 0:
            raise DeviceFailed("the fake card fell off the bus")
        if any((one == POISON).any() for one in items):
            raise Poisoned("a poisoned item")
        return [(SpecResult(one * 2, np.arange(len(one))[:, None]), SpecResult(one + 1)) for one in items]

    def probe(self) -> bool:
        self.probes += 1
        return self.probes_right

    def free_memory(self) -> None:
        self.freed += 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _item(value: float, planes: int = 1) -> np.ndarray:
    return np.full((planes, 2), value, np.float32)


def _answers(outcomes: Sequence[DeviceResult | Exception]) -> list[float | str]:
    told: list[float | str] = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            told.append(type(outcome).__name__)
        else:
            doubled, raised = outcome.result
            np.testing.assert_array_equal(doubled.values / 2, raised.values - 1)
            told.append(float(raised.values[0, 0]) - 1)
    return told


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until it is moved."""
    return Clock()


@pytest.fixture(scope="session")
def gpu() -> Callable[..., FakeDevice]:
    """Makes a fake card, with `room` for so many bytes, that `fails_every` so many launches, and so on."""
    return FakeDevice


@pytest.fixture(scope="session")
def cpu() -> Callable[[], FakeDevice]:
    """Makes a fake processor, which has room for everything and never fails."""
    return lambda: FakeDevice(name="cpu", description="a fake processor")


@pytest.fixture(scope="session")
def kind() -> BatchKey:
    """What the items are: planes of two float32, eight bytes each."""
    return KIND


@pytest.fixture(scope="session")
def item() -> Callable[..., np.ndarray]:
    """Makes an item that holds a value, of one plane or of as many as are asked for."""
    return _item


@pytest.fixture(scope="session")
def poison() -> float:
    """The value of an item that fails on every device."""
    return POISON


@pytest.fixture(scope="session")
def answers() -> Callable[[Sequence[DeviceResult | Exception]], list[float | str]]:
    """Tells what each item was doubled from, or the name of its exception."""
    return _answers
