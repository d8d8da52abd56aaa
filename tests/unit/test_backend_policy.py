"""What the backend does when a device has no room, fails, or is given a poisoned item."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolservice_server.backend import Backend
from poolservice_server.backend.base import (
    Computed,
    DeviceFailed,
    DeviceOutOfMemory,
    Kind,
    NoDevice,
    Pooled,
    Stages,
)


@dataclass(frozen=True)
class Doubling:
    """What the fake device does to an item, with the index of each plane beside it."""


KIND = Kind((Doubling(),), (2,), np.dtype(np.float32))
OTHER_KIND = Kind((Doubling(),), (3,), np.dtype(np.float32))

# Bytes of a plane of KIND.
PLANE = 8


class Poisoned(Exception):
    pass


def item(value: float, planes: int = 1) -> np.ndarray:
    return np.full((planes, 2), value, np.float32)


POISON = -1.0


@dataclass
class FakeDevice:
    """A device with little memory and a temper."""

    name: str = "cuda:0"
    description: str = "a fake card"
    #: Bytes that fit.
    room: float = float("inf")
    #: Every k-th launch fails; 1 for all of them.
    fails_every: int | None = None
    probes_right: bool = True
    launches: list[list[int]] = field(default_factory=list)
    probes: int = 0
    freed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, stages: Stages, items: Sequence[np.ndarray]) -> list[tuple[Pooled, ...]]:
        assert stages == KIND.stages
        with self.lock:
            self.launches.append([len(one) for one in items])
            number = len(self.launches)
        if sum(one.nbytes for one in items) > self.room:
            raise DeviceOutOfMemory("the fake card is full")
        if self.fails_every and number % self.fails_every == 0:
            raise DeviceFailed("the fake card fell off the bus")
        if any((one == POISON).any() for one in items):
            raise Poisoned("a poisoned item")
        return [(Pooled(one * 2, np.arange(len(one))[:, None]), Pooled(one + 1)) for one in items]

    def probe(self) -> bool:
        self.probes += 1
        return self.probes_right

    def free_memory(self) -> None:
        self.freed += 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def cpu() -> FakeDevice:
    return FakeDevice(name="cpu", description="a fake processor")


def answers(outcomes: Sequence[Computed | Exception]) -> list[float | str]:
    """What each item was doubled from, or the name of its exception."""
    told: list[float | str] = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            told.append(type(outcome).__name__)
        else:
            doubled, raised = outcome.result
            np.testing.assert_array_equal(doubled.values / 2, raised.values - 1)
            told.append(float(raised.values[0, 0]) - 1)
    return told


def test_a_batch_runs_on_the_first_device() -> None:
    gpu, processor = FakeDevice(), cpu()
    outcomes = Backend([gpu, processor]).run(KIND, [item(1), item(2)])
    assert answers(outcomes) == [1, 2]
    assert [(one.device, one.batch_size) for one in outcomes if isinstance(one, Computed)] == [("cuda:0", 2)] * 2
    assert processor.launches == []


def test_out_of_memory_halves_the_batch_and_remembers() -> None:
    gpu = FakeDevice(room=2 * PLANE)
    backend = Backend([gpu, cpu()])
    batch = [item(value) for value in range(8)]
    outcomes = backend.run(KIND, batch)
    assert answers(outcomes) == list(range(8))
    assert {one.batch_size for one in outcomes if isinstance(one, Computed)} == {2}
    # Eight and four were too many; the second four are not tried any more.
    assert [len(launch) for launch in gpu.launches] == [8, 4, 2, 2, 2, 2]
    assert gpu.freed == 2
    gpu.launches.clear()
    assert answers(backend.run(KIND, batch)) == list(range(8))
    assert [len(launch) for launch in gpu.launches] == [2, 2, 2, 2]
    assert backend.counts()["cuda:0"].out_of_memory == 2
    assert backend.counts()["cuda:0"].items == 16


def test_the_ceiling_is_of_one_kind_of_work() -> None:
    gpu = FakeDevice(room=2 * PLANE)
    backend = Backend([gpu])
    backend.run(KIND, [item(value) for value in range(4)])
    gpu.launches.clear()
    gpu.room = float("inf")
    backend.run(OTHER_KIND, [np.zeros((1, 3), np.float32)] * 4)
    assert gpu.launches == [[1, 1, 1, 1]]


def test_the_ceiling_grows_back_slowly_and_is_forgotten() -> None:
    gpu, clock = FakeDevice(room=2 * PLANE), Clock()
    backend = Backend([gpu], clock=clock, max_batch_bytes=16 * PLANE)
    batch = [item(value) for value in range(8)]
    backend.run(KIND, batch)
    gpu.room = float("inf")
    sizes = []
    for _ in range(4):
        clock.now += 29.9
        gpu.launches.clear()
        backend.run(KIND, batch)
        sizes.append([len(launch) for launch in gpu.launches])
        clock.now += 0.1
    assert sizes == [[2, 2, 2, 2], [4, 4], [8], [8]]


def test_a_large_item_is_run_in_parts_and_put_together() -> None:
    gpu = FakeDevice()
    planes = np.arange(14, dtype=np.float32).reshape(7, 2)
    (outcome,) = Backend([gpu], max_batch_bytes=3 * PLANE).run(KIND, [planes])
    assert isinstance(outcome, Computed)
    np.testing.assert_array_equal(outcome.result[0].values, planes * 2)
    assert outcome.result[0].indices is not None
    assert outcome.result[0].indices.shape == (7, 1)
    assert outcome.result[1].indices is None
    assert max(sum(launch) for launch in gpu.launches) <= 3
    assert (outcome.device, outcome.batch_size) == ("cuda:0", 1)


def test_a_large_item_of_bfloat16_keeps_its_type() -> None:
    planes = np.arange(8).reshape(4, 2).astype(ml_dtypes.bfloat16)
    (outcome,) = Backend([FakeDevice()], max_batch_bytes=8).run(KIND, [planes])
    assert isinstance(outcome, Computed)
    assert outcome.result[0].values.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(outcome.result[0].values, planes * 2)


def test_what_never_fits_into_the_device_runs_on_the_next() -> None:
    gpu, processor = FakeDevice(room=PLANE / 2), cpu()
    outcomes = Backend([gpu, processor]).run(KIND, [item(1), item(2)])
    assert answers(outcomes) == [1, 2]
    assert processor.launches == [[1], [1]]


def test_what_fits_nowhere_fails_alone() -> None:
    gpu = FakeDevice(room=2 * PLANE)
    small, wide = item(1), np.zeros((1, 6), np.float32)
    assert answers(Backend([gpu]).run(KIND, [small, wide, small])) == [1, "DeviceOutOfMemory", 1]


def test_a_device_that_fails_once_is_tried_again() -> None:
    gpu, processor = FakeDevice(fails_every=2), cpu()
    backend = Backend([gpu, processor])
    for value in range(6):
        assert answers(backend.run(KIND, [item(value)])) == [value]
    assert processor.launches == []
    assert not backend.devices()[0].suspended
    assert backend.counts()["cuda:0"].failures == 5


def test_a_device_that_fails_twice_is_suspended_and_the_cpu_goes_on() -> None:
    gpu, processor, clock = FakeDevice(fails_every=1), cpu(), Clock()
    backend = Backend([gpu, processor], clock=clock)
    outcomes = backend.run(KIND, [item(1), item(2)])
    assert answers(outcomes) == [1, 2]
    assert {one.device for one in outcomes if isinstance(one, Computed)} == {"cpu"}
    first, second = backend.devices()
    assert (first.name, first.suspended, first.reason) == ("cuda:0", True, "the fake card fell off the bus")
    assert (second.name, second.suspended, second.reason) == ("cpu", False, "")
    backend.run(KIND, [item(3)])
    assert len(gpu.launches) == 2
    assert backend.counts()["cuda:0"].suspensions == 1


def test_a_suspended_device_is_probed_ever_more_rarely_and_taken_back_when_it_is_right() -> None:
    gpu, clock = FakeDevice(fails_every=1, probes_right=False), Clock()
    backend = Backend([gpu, cpu()], clock=clock)
    backend.run(KIND, [item(0)])
    probed_at = []
    while clock.now < 40:
        clock.now += 0.5
        before = gpu.probes
        assert answers(backend.run(KIND, [item(1)])) == [1]
        if gpu.probes > before:
            probed_at.append(clock.now)
    assert probed_at == [1, 3, 7, 15, 31]
    gpu.fails_every, gpu.probes_right = None, True
    clock.now = 63
    (outcome,) = backend.run(KIND, [item(1)])
    assert isinstance(outcome, Computed)
    assert outcome.device == "cuda:0"
    assert not backend.devices()[0].suspended
    assert backend.counts()["cuda:0"].probes == 6


def test_without_a_cpu_a_failed_device_means_no_device() -> None:
    gpu, clock = FakeDevice(fails_every=1), Clock()
    backend = Backend([gpu], clock=clock)
    for _ in range(2):
        outcomes = backend.run(KIND, [item(1), item(2)])
        assert [type(one) for one in outcomes] == [NoDevice, NoDevice]
        assert "cuda:0: the fake card fell off the bus" in str(outcomes[0])
    gpu.fails_every = None
    clock.now = 1
    assert answers(backend.run(KIND, [item(1)])) == [1]


@pytest.mark.parametrize("guilty", [[], [0], [7], [2, 3], [0, 4, 9], list(range(10))])
def test_only_the_guilty_items_fail(guilty: list[int]) -> None:
    gpu = FakeDevice()
    batch = [item(POISON if number in guilty else number) for number in range(10)]
    backend = Backend([gpu, cpu()])
    outcomes = backend.run(KIND, batch)
    assert not backend.devices()[0].suspended
    assert answers(outcomes) == ["Poisoned" if number in guilty else number for number in range(10)]


def test_what_one_device_lacks_the_next_may_have() -> None:
    class Limited(FakeDevice):
        def run(self, stages: Stages, items: Sequence[np.ndarray]) -> list[tuple[Pooled, ...]]:
            raise TypeError("this device has no such type")

    outcomes = Backend([Limited(), cpu()]).run(KIND, [item(1), item(POISON), item(2)])
    assert answers(outcomes) == [1, "Poisoned", 2]


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    guilty=st.sets(st.integers(0, 11)),
    room=st.integers(1, 20),
    fails_every=st.sampled_from([None, 1, 2, 3]),
)
def test_whatever_goes_wrong_each_item_has_its_own_outcome(
    sizes: list[int], guilty: set[int], room: int, fails_every: int | None
) -> None:
    gpu = FakeDevice(room=room * PLANE, fails_every=fails_every)
    batch = [item(POISON if number in guilty else number, planes) for number, planes in enumerate(sizes)]
    for _ in range(2):
        outcomes = Backend([gpu, cpu()], max_batch_bytes=9 * PLANE).run(KIND, batch)
        assert len(outcomes) == len(batch)
        for planes, outcome in zip(batch, outcomes, strict=True):
            if (planes == POISON).any():
                assert isinstance(outcome, Poisoned)
            else:
                assert isinstance(outcome, Computed)
                np.testing.assert_array_equal(outcome.result[0].values, planes * 2)


def test_threads_share_a_failing_device_without_losing_anything() -> None:
    gpu = FakeDevice(fails_every=3, room=5 * PLANE)
    backend = Backend([gpu, cpu()])
    told: dict[int, list[float | str]] = {}

    def call(number: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(50):
                told[number] = answers(backend.run(KIND, [item(number + value) for value in range(8)]))

        return run

    threads = [threading.Thread(target=call(number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert told == {number: [number + value for value in range(8)] for number in range(4)}
