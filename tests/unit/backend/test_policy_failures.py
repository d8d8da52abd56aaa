"""What the backend does when a device fails, or is given a poisoned item."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolservice_server.backend import Backend
from poolservice_server.backend.device import DeviceResult, NoDevice
from poolservice_server.stages import BatchKey

if TYPE_CHECKING:
    from tests.unit.backend.conftest import Clock, FakeDevice

MakeDevice = Callable[..., "FakeDevice"]
MakeItem = Callable[..., np.ndarray]
Answers = Callable[[Sequence[DeviceResult | Exception]], list[float | str]]

# Bytes of a plane.
PLANE = 8


def test_a_batch_runs_on_the_first_device(
    gpu: MakeDevice, cpu: MakeDevice, kind: BatchKey, item: MakeItem, answers: Answers
) -> None:
    card, processor = gpu(), cpu()
    outcomes = Backend([card, processor]).run(kind, [item(1), item(2)])
    assert answers(outcomes) == [1, 2]
    assert [(one.device, one.batch_size) for one in outcomes if isinstance(one, DeviceResult)] == [("cuda:0", 2)] * 2
    assert card.launches == [[1, 1]]
    assert processor.launches == []


def test_a_device_that_fails_once_is_tried_again(
    gpu: MakeDevice, cpu: MakeDevice, kind: BatchKey, item: MakeItem, answers: Answers
) -> None:
    card, processor = gpu(fails_every=2), cpu()
    backend = Backend([card, processor])
    for value in range(6):
        assert answers(backend.run(kind, [item(value)])) == [value]
    assert processor.launches == []
    assert not backend.devices()[0].suspended
    assert backend.counts()["cuda:0"].failures == 5


def test_a_device_that_fails_twice_is_suspended_and_the_cpu_goes_on(
    gpu: MakeDevice, cpu: MakeDevice, kind: BatchKey, item: MakeItem, answers: Answers, clock: "Clock"
) -> None:
    card = gpu(fails_every=1)
    backend = Backend([card, cpu()], clock=clock)
    outcomes = backend.run(kind, [item(1), item(2)])
    assert answers(outcomes) == [1, 2]
    assert {one.device for one in outcomes if isinstance(one, DeviceResult)} == {"cpu"}
    first, second = backend.devices()
    assert (first.name, first.suspended, first.reason) == ("cuda:0", True, "the fake card fell off the bus")
    assert (second.name, second.suspended, second.reason) == ("cpu", False, "")
    assert answers(backend.run(kind, [item(3)])) == [3]
    assert len(card.launches) == 2
    assert backend.counts()["cuda:0"].suspensions == 1


def test_a_suspended_device_is_probed_ever_more_rarely_and_taken_back_when_it_is_right(
    gpu: MakeDevice, cpu: MakeDevice, kind: BatchKey, item: MakeItem, answers: Answers, clock: "Clock"
) -> None:
    card = gpu(fails_every=1, probes_right=False)
    backend = Backend([card, cpu()], clock=clock)
    backend.run(kind, [item(0)])
    probed_at = []
    while clock.now < 40:
        clock.now += 0.5
        before = card.probes
        assert answers(backend.run(kind, [item(1)])) == [1]
        if card.probes > before:
            probed_at.append(clock.now)
    assert probed_at == [1, 3, 7, 15, 31]
    card.fails_every, card.probes_right = None, True
    clock.now = 63
    (outcome,) = backend.run(kind, [item(1)])
    assert isinstance(outcome, DeviceResult)
    assert outcome.device == "cuda:0"
    assert not backend.devices()[0].suspended
    assert backend.counts()["cuda:0"].probes == 6


def test_without_a_cpu_a_failed_device_means_no_device(
    gpu: MakeDevice, kind: BatchKey, item: MakeItem, answers: Answers, clock: "Clock"
) -> None:
    card = gpu(fails_every=1)
    backend = Backend([card], clock=clock)
    for _ in range(2):
        outcomes = backend.run(kind, [item(1), item(2)])
        assert [type(one) for one in outcomes] == [NoDevice, NoDevice]
        assert "cuda:0: the fake card fell off the bus" in str(outcomes[0])
    card.fails_every = None
    clock.now = 1
    assert answers(backend.run(kind, [item(1)])) == [1]


@pytest.mark.parametrize("guilty", [[], [0], [7], [2, 3], [0, 4, 9], list(range(10))])
def test_only_the_guilty_items_fail(
    guilty: list[int], gpu: MakeDevice, cpu: MakeDevice, kind: BatchKey, item: MakeItem, poison: float, answers: Answers
) -> None:
    batch = [item(poison if number in guilty else number) for number in range(10)]
    backend = Backend([gpu(), cpu()])
    outcomes = backend.run(kind, batch)
    assert not backend.devices()[0].suspended
    assert answers(outcomes) == ["Poisoned" if number in guilty else number for number in range(10)]


def test_what_one_device_lacks_the_next_may_have(
    gpu: MakeDevice, cpu: MakeDevice, kind: BatchKey, item: MakeItem, poison: float, answers: Answers
) -> None:
    backend = Backend([gpu(refuses=TypeError("this device has no such type")), cpu()])
    outcomes = backend.run(kind, [item(1), item(poison), item(2)])
    assert answers(outcomes) == [1, "Poisoned", 2]
    assert {one.device for one in outcomes if isinstance(one, DeviceResult)} == {"cpu"}


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    guilty=st.sets(st.integers(0, 11)),
    room=st.integers(1, 20),
    fails_every=st.sampled_from([None, 1, 2, 3]),
)
def test_whatever_goes_wrong_each_item_has_its_own_outcome(
    sizes: list[int],
    guilty: set[int],
    room: int,
    fails_every: int | None,
    gpu: MakeDevice,
    cpu: MakeDevice,
    kind: BatchKey,
    item: MakeItem,
    poison: float,
) -> None:
    batch = [item(poison if number in guilty else number, planes) for number, planes in enumerate(sizes)]
    backend = Backend([gpu(room=room * PLANE, fails_every=fails_every), cpu()], max_batch_bytes=9 * PLANE)
    # The second time with what it has learnt from the first.
    for _ in range(2):
        outcomes = backend.run(kind, batch)
        assert len(outcomes) == len(batch)
        for planes, outcome in zip(batch, outcomes, strict=True):
            if (planes == poison).any():
                assert type(outcome).__name__ == "Poisoned"
            else:
                assert isinstance(outcome, DeviceResult)
                np.testing.assert_array_equal(outcome.result[0].values, planes * 2)
                np.testing.assert_array_equal(outcome.result[1].values, planes + 1)


def test_threads_share_a_failing_device_without_losing_anything(
    gpu: MakeDevice, cpu: MakeDevice, kind: BatchKey, item: MakeItem, answers: Answers
) -> None:
    backend = Backend([gpu(fails_every=3, room=5 * PLANE), cpu()])

    def call(number: int) -> list[list[float | str]]:
        return [answers(backend.run(kind, [item(number + value) for value in range(8)])) for _ in range(50)]

    with ThreadPoolExecutor(4) as threads:
        for number, told in enumerate(threads.map(call, range(4), timeout=60)):
            assert told == [[number + value for value in range(8)]] * 50
