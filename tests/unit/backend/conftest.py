"""Fake devices that fail or run out of memory on request, and payloads for them."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from poolservice.specs import GlobalMaxPool1d
from poolservice_server.backbone_stage import BackboneInput, BackboneResult, BackboneStage
from poolservice_server.backbones.engines.network import Network
from poolservice_server.backend.backbone_batch import BackboneBatch
from poolservice_server.backend.device import DeviceFailed, DeviceOutOfMemory, DeviceResult, Payload
from poolservice_server.pool_stage import BatchKey, PoolStage, SpecResult
from poolservice_server.stop import Stop, WorkStopped, never

KEY = BatchKey(PoolStage((GlobalMaxPool1d(),)), (2,), np.dtype(np.float32))

POISON = -1.0


class Poisoned(Exception):
    """The error of a payload that fails on every device."""


@dataclass
class FakeDevice:
    """Returns two results for each payload: its double, and the payload plus one."""

    name: str = "cuda:0"
    description: str = "a fake GPU"
    #: The bytes that fit into its memory.
    capacity: float = float("inf")
    #: Every k-th batch fails; 1 to let all of them fail.
    fails_every: int | None = None
    #: Raised for every batch, as by a device that lacks a dtype.
    unsupported: Exception | None = None
    computes_correctly: bool = True
    batches: list[list[int]] = field(default_factory=list)
    probes: int = 0
    freed: int = 0
    torch_device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    torch_memory: dict[str, int] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, stage: PoolStage, payloads: Sequence[np.ndarray], stop: Stop = never) -> list[tuple[SpecResult, ...]]:
        assert stage == KEY.stage
        self._start(payloads, stop)
        if any((payload == POISON).any() for payload in payloads):
            raise Poisoned("a poisoned payload")
        return [
            (SpecResult(payload * 2, np.arange(len(payload))[:, None]), SpecResult(payload + 1)) for payload in payloads
        ]

    def run_backbone(
        self, stage: BackboneStage, payloads: Sequence[BackboneInput], stop: Stop = never
    ) -> list[BackboneResult]:
        """Compute as a GPU does, with torch tensors for the whole batch, in the CPU's memory."""
        self._start(payloads, stop)
        batch = BackboneBatch(self.networks[stage.backbone], stage, payloads)
        tensors = batch.compute(torch.from_numpy(np.concatenate([payload.samples for payload in payloads])))
        return batch.results(tensors, 0.001)

    def _start(self, payloads: Sequence[Payload], stop: Stop) -> None:
        with self.lock:
            self.batches.append([len(payload) for payload in payloads])
            number = len(self.batches)
        if self.unsupported is not None:
            raise self.unsupported
        if stop():
            raise WorkStopped
        if sum(payload.nbytes for payload in payloads) > self.capacity:
            raise DeviceOutOfMemory("the fake GPU is out of memory")
        if self.fails_every and number % self.fails_every == 0:
            raise DeviceFailed("the fake GPU fell off the bus")

    def probe(self) -> bool:
        self.probes += 1
        return self.computes_correctly

    def free_memory(self) -> None:
        self.freed += 1

    def memory(self) -> dict[str, int]:
        return self.torch_memory

    def used_bytes(self) -> int:
        return 0


class Clock:
    """Returns a time that only a test changes."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _payload(value: float, planes: int = 1) -> np.ndarray:
    return np.full((planes, 2), value, np.float32)


def _describe(outcomes: Sequence[DeviceResult | Exception]) -> list[float | str]:
    descriptions: list[float | str] = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            descriptions.append(type(outcome).__name__)
        else:
            doubled, incremented = outcome.result
            np.testing.assert_array_equal(doubled.values / 2, incremented.values - 1)
            descriptions.append(float(incremented.values[0, 0]) - 1)
    return descriptions


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until the test moves it."""
    return Clock()


@pytest.fixture(scope="session")
def gpu() -> Callable[..., FakeDevice]:
    """Return a function that makes a fake GPU; see `FakeDevice` for its parameters."""
    return FakeDevice


@pytest.fixture(scope="session")
def cpu() -> Callable[[], FakeDevice]:
    """Return a function that makes a fake CPU, which has enough memory and never fails."""
    return lambda: FakeDevice(name="cpu", description="a fake CPU")


@pytest.fixture(scope="session")
def key() -> BatchKey:
    """The key of the payloads: planes of two float32 values, eight bytes each."""
    return KEY


@pytest.fixture(scope="session")
def payload() -> Callable[..., np.ndarray]:
    """Return a function that makes a payload filled with a value, of one plane or of several."""
    return _payload


@pytest.fixture(scope="session")
def poison() -> float:
    """The value of a payload that fails on every device."""
    return POISON


@pytest.fixture(scope="session")
def describe() -> Callable[[Sequence[DeviceResult | Exception]], list[float | str]]:
    """Return a function that gives, for each outcome, the value of its payload or the name of its exception."""
    return _describe
