"""The backend's policy if a batch does not fit into a device's memory or exceeds the maximum batch size."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from poolservice_server.backend import Backend
from poolservice_server.backend.device import DeviceResult
from poolservice_server.pool_stage import BatchKey

if TYPE_CHECKING:
    from tests.unit.backend.conftest import Clock, FakeDevice

MakeDevice = Callable[..., "FakeDevice"]
MakePayload = Callable[..., np.ndarray]
Describe = Callable[[Sequence[DeviceResult | Exception]], list[float | str]]

# The bytes of a plane.
PLANE = 8


def test_out_of_memory_halves_the_batch_and_is_remembered(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload, describe: Describe
) -> None:
    fake_gpu = gpu(capacity=2 * PLANE)
    backend = Backend([fake_gpu, cpu()])
    batch = [payload(value) for value in range(8)]
    outcomes = backend.run(key, batch)
    assert describe(outcomes) == list(range(8))
    assert {outcome.batch_size for outcome in outcomes if isinstance(outcome, DeviceResult)} == {2}
    # Eight and four payloads did not fit; the other four are halved without a try.
    assert [len(planes) for planes in fake_gpu.batches] == [8, 4, 2, 2, 2, 2]
    assert fake_gpu.freed == 2
    fake_gpu.batches.clear()
    assert describe(backend.run(key, batch)) == list(range(8))
    assert [len(planes) for planes in fake_gpu.batches] == [2, 2, 2, 2]
    assert backend.counts()["cuda:0"].out_of_memory == 2
    assert backend.counts()["cuda:0"].payloads == 16


def test_the_memory_limit_is_per_batch_key(gpu: MakeDevice, key: BatchKey, payload: MakePayload) -> None:
    fake_gpu = gpu(capacity=2 * PLANE)
    backend = Backend([fake_gpu])
    backend.run(key, [payload(value) for value in range(4)])
    fake_gpu.batches.clear()
    fake_gpu.capacity = float("inf")
    backend.run(BatchKey(key.stage, (3,), key.dtype), [np.zeros((1, 3), np.float32)] * 4)
    assert fake_gpu.batches == [[1, 1, 1, 1]]


def test_the_memory_limit_grows_back_slowly_and_is_forgotten(
    gpu: MakeDevice, key: BatchKey, payload: MakePayload, clock: "Clock"
) -> None:
    fake_gpu = gpu(capacity=2 * PLANE)
    backend = Backend([fake_gpu], clock=clock, max_batch_bytes=16 * PLANE)
    batch = [payload(value) for value in range(8)]
    backend.run(key, batch)
    fake_gpu.capacity = float("inf")
    sizes = []
    for _ in range(4):
        clock.now += 29.9
        fake_gpu.batches.clear()
        backend.run(key, batch)
        sizes.append([len(planes) for planes in fake_gpu.batches])
        clock.now += 0.1
    assert sizes == [[2, 2, 2, 2], [4, 4], [8], [8]]


def test_a_large_payload_runs_in_parts_that_are_joined(gpu: MakeDevice, key: BatchKey) -> None:
    fake_gpu = gpu()
    planes = np.arange(14, dtype=np.float32).reshape(7, 2)
    (outcome,) = Backend([fake_gpu], max_batch_bytes=3 * PLANE).run(key, [planes])
    assert isinstance(outcome, DeviceResult)
    np.testing.assert_array_equal(outcome.result[0].values, planes * 2)
    np.testing.assert_array_equal(outcome.result[1].values, planes + 1)
    assert outcome.result[0].indices is not None
    assert outcome.result[0].indices.shape == (7, 1)
    assert outcome.result[1].indices is None
    assert max(sum(planes) for planes in fake_gpu.batches) <= 3
    assert (outcome.device, outcome.batch_size) == ("cuda:0", 1)


def test_a_large_payload_of_bfloat16_keeps_its_dtype(gpu: MakeDevice, key: BatchKey) -> None:
    planes = np.arange(8).reshape(4, 2).astype(ml_dtypes.bfloat16)
    fake_gpu = gpu()
    (outcome,) = Backend([fake_gpu], max_batch_bytes=8).run(BatchKey(key.stage, (2,), planes.dtype), [planes])
    assert len(fake_gpu.batches) > 1
    assert isinstance(outcome, DeviceResult)
    assert outcome.result[0].values.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(outcome.result[0].values, planes * 2)


def test_a_payload_that_never_fits_into_a_device_runs_on_the_next(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload, describe: Describe
) -> None:
    fake_cpu = cpu()
    outcomes = Backend([gpu(capacity=PLANE / 2), fake_cpu]).run(key, [payload(1), payload(2)])
    assert describe(outcomes) == [1, 2]
    assert fake_cpu.batches == [[1], [1]]


def test_only_the_payload_that_fits_nowhere_fails(
    gpu: MakeDevice, key: BatchKey, payload: MakePayload, describe: Describe
) -> None:
    small, wide = payload(1), np.zeros((1, 6), np.float32)
    assert describe(Backend([gpu(capacity=2 * PLANE)]).run(key, [small, wide, small])) == [1, "DeviceOutOfMemory", 1]
