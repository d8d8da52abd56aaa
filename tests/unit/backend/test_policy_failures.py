"""The backend's policy if a device fails or a payload is at fault."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolservice_server.backend import Backend
from poolservice_server.backend.device import DeviceResult, NoDevice
from poolservice_server.pool_stage import BatchKey
from poolservice_server.stop import WorkStopped

if TYPE_CHECKING:
    from tests.unit.backend.conftest import Clock, FakeDevice

MakeDevice = Callable[..., "FakeDevice"]
MakePayload = Callable[..., np.ndarray]
Describe = Callable[[Sequence[DeviceResult | Exception]], list[float | str]]

# The bytes of a plane.
PLANE = 8


def test_a_batch_runs_on_the_first_device(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload, describe: Describe
) -> None:
    fake_gpu, fake_cpu = gpu(), cpu()
    outcomes = Backend([fake_gpu, fake_cpu]).run(key, [payload(1), payload(2)])
    assert describe(outcomes) == [1, 2]
    assert [(outcome.device, outcome.batch_size) for outcome in outcomes if isinstance(outcome, DeviceResult)] == [
        ("cuda:0", 2)
    ] * 2
    assert fake_gpu.batches == [[1, 1]]
    assert fake_cpu.batches == []


def test_a_batch_runs_again_on_a_device_that_failed_once(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload, describe: Describe
) -> None:
    fake_gpu, fake_cpu = gpu(fails_every=2), cpu()
    backend = Backend([fake_gpu, fake_cpu])
    for value in range(6):
        assert describe(backend.run(key, [payload(value)])) == [value]
    assert fake_cpu.batches == []
    assert not backend.devices()[0].suspended
    assert backend.counts()["cuda:0"].failures == 5


def test_a_device_that_fails_twice_is_suspended_and_the_cpu_takes_over(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload, describe: Describe, clock: "Clock"
) -> None:
    fake_gpu = gpu(fails_every=1)
    backend = Backend([fake_gpu, cpu()], clock=clock)
    outcomes = backend.run(key, [payload(1), payload(2)])
    assert describe(outcomes) == [1, 2]
    assert {outcome.device for outcome in outcomes if isinstance(outcome, DeviceResult)} == {"cpu"}
    first, second = backend.devices()
    assert (first.name, first.suspended, first.reason) == ("cuda:0", True, "the fake GPU fell off the bus")
    assert (second.name, second.suspended, second.reason) == ("cpu", False, "")
    assert describe(backend.run(key, [payload(3)])) == [3]
    assert len(fake_gpu.batches) == 2
    assert backend.counts()["cuda:0"].suspensions == 1


def test_a_suspended_device_is_probed_at_growing_intervals_and_resumed_if_it_computes_correctly(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload, describe: Describe, clock: "Clock"
) -> None:
    fake_gpu = gpu(fails_every=1, computes_correctly=False)
    backend = Backend([fake_gpu, cpu()], clock=clock)
    backend.run(key, [payload(0)])
    probed_at = []
    while clock.now < 40:
        clock.now += 0.5
        before = fake_gpu.probes
        assert describe(backend.run(key, [payload(1)])) == [1]
        if fake_gpu.probes > before:
            probed_at.append(clock.now)
    assert probed_at == [1, 3, 7, 15, 31]
    fake_gpu.fails_every, fake_gpu.computes_correctly = None, True
    clock.now = 63
    (outcome,) = backend.run(key, [payload(1)])
    assert isinstance(outcome, DeviceResult)
    assert outcome.device == "cuda:0"
    assert not backend.devices()[0].suspended
    assert backend.counts()["cuda:0"].probes == 6


def test_without_a_cpu_a_suspended_device_leaves_no_device(
    gpu: MakeDevice, key: BatchKey, payload: MakePayload, describe: Describe, clock: "Clock"
) -> None:
    fake_gpu = gpu(fails_every=1)
    backend = Backend([fake_gpu], clock=clock)
    for _ in range(2):
        outcomes = backend.run(key, [payload(1), payload(2)])
        assert [type(outcome) for outcome in outcomes] == [NoDevice, NoDevice]
        assert "cuda:0: the fake GPU fell off the bus" in str(outcomes[0])
    fake_gpu.fails_every = None
    clock.now = 1
    assert describe(backend.run(key, [payload(1)])) == [1]


@pytest.mark.parametrize("at_fault", [[], [0], [7], [2, 3], [0, 4, 9], list(range(10))])
def test_only_the_payloads_at_fault_fail(
    at_fault: list[int],
    gpu: MakeDevice,
    cpu: MakeDevice,
    key: BatchKey,
    payload: MakePayload,
    poison: float,
    describe: Describe,
) -> None:
    batch = [payload(poison if number in at_fault else number) for number in range(10)]
    backend = Backend([gpu(), cpu()])
    outcomes = backend.run(key, batch)
    assert not backend.devices()[0].suspended
    assert describe(outcomes) == ["Poisoned" if number in at_fault else number for number in range(10)]


def test_the_next_device_runs_what_one_does_not_support(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload, poison: float, describe: Describe
) -> None:
    backend = Backend([gpu(unsupported=TypeError("this device lacks the dtype")), cpu()])
    outcomes = backend.run(key, [payload(1), payload(poison), payload(2)])
    assert describe(outcomes) == [1, "Poisoned", 2]
    assert {outcome.device for outcome in outcomes if isinstance(outcome, DeviceResult)} == {"cpu"}


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    at_fault=st.sets(st.integers(0, 11)),
    capacity=st.integers(1, 20),
    fails_every=st.sampled_from([None, 1, 2, 3]),
)
def test_every_payload_has_its_own_outcome_whatever_fails(
    sizes: list[int],
    at_fault: set[int],
    capacity: int,
    fails_every: int | None,
    gpu: MakeDevice,
    cpu: MakeDevice,
    key: BatchKey,
    payload: MakePayload,
    poison: float,
) -> None:
    batch = [payload(poison if number in at_fault else number, planes) for number, planes in enumerate(sizes)]
    backend = Backend([gpu(capacity=capacity * PLANE, fails_every=fails_every), cpu()], max_batch_bytes=9 * PLANE)
    # The second run uses the memory limits that the first one left.
    for _ in range(2):
        outcomes = backend.run(key, batch)
        assert len(outcomes) == len(batch)
        for planes, outcome in zip(batch, outcomes, strict=True):
            if (planes == poison).any():
                assert type(outcome).__name__ == "Poisoned"
            else:
                assert isinstance(outcome, DeviceResult)
                np.testing.assert_array_equal(outcome.result[0].values, planes * 2)
                np.testing.assert_array_equal(outcome.result[1].values, planes + 1)


def test_threads_share_a_failing_device_without_losing_an_outcome(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload, describe: Describe
) -> None:
    backend = Backend([gpu(fails_every=3, capacity=5 * PLANE), cpu()])

    def call(number: int) -> list[list[float | str]]:
        return [describe(backend.run(key, [payload(number + value) for value in range(8)])) for _ in range(50)]

    with ThreadPoolExecutor(4) as threads:
        for number, values in enumerate(threads.map(call, range(4), timeout=60)):
            assert values == [[number + value for value in range(8)]] * 50


def test_work_that_is_stopped_is_no_fault_of_the_device_or_of_a_payload(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload
) -> None:
    fake_gpu, fake_cpu = gpu(), cpu()
    backend = Backend([fake_gpu, fake_cpu])
    for _ in range(3):
        with pytest.raises(WorkStopped):
            backend.run(key, [payload(1), payload(2)], lambda: True)
    # It is neither halved, nor run again, nor moved to the next device.
    assert fake_gpu.batches == [[1, 1]] * 3
    assert fake_cpu.batches == []
    assert backend.counts()["cuda:0"].failures == 0
    assert not backend.devices()[0].suspended


def test_a_batch_stops_between_its_halves(gpu: MakeDevice, key: BatchKey, payload: MakePayload) -> None:
    fake_gpu = gpu()
    backend = Backend([fake_gpu], max_batch_bytes=PLANE)
    with pytest.raises(WorkStopped):
        backend.run(key, [payload(1), payload(2)], lambda: bool(fake_gpu.batches))
    assert fake_gpu.batches == [[1]]
