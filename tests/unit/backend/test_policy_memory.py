"""What the backend does when a device has no room for a batch, or an item is larger than any batch may be."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from poolservice_server.backend import Backend
from poolservice_server.backend.device import DeviceResult
from poolservice_server.stages import BatchKey

if TYPE_CHECKING:
    from tests.unit.backend.conftest import Clock, FakeDevice

MakeDevice = Callable[..., "FakeDevice"]
MakeItem = Callable[..., np.ndarray]
Answers = Callable[[Sequence[DeviceResult | Exception]], list[float | str]]

# Bytes of a plane.
PLANE = 8


def test_out_of_memory_halves_the_batch_and_remembers(
    gpu: MakeDevice, cpu: MakeDevice, kind: BatchKey, item: MakeItem, answers: Answers
) -> None:
    card = gpu(room=2 * PLANE)
    backend = Backend([card, cpu()])
    batch = [item(value) for value in range(8)]
    outcomes = backend.run(kind, batch)
    assert answers(outcomes) == list(range(8))
    assert {one.batch_size for one in outcomes if isinstance(one, DeviceResult)} == {2}
    # Eight and four were too many; the second four are not tried any more.
    assert [len(launch) for launch in card.launches] == [8, 4, 2, 2, 2, 2]
    assert card.freed == 2
    card.launches.clear()
    assert answers(backend.run(kind, batch)) == list(range(8))
    assert [len(launch) for launch in card.launches] == [2, 2, 2, 2]
    assert backend.counts()["cuda:0"].out_of_memory == 2
    assert backend.counts()["cuda:0"].items == 16


def test_the_ceiling_is_of_one_kind_of_work(gpu: MakeDevice, kind: BatchKey, item: MakeItem) -> None:
    card = gpu(room=2 * PLANE)
    backend = Backend([card])
    backend.run(kind, [item(value) for value in range(4)])
    card.launches.clear()
    card.room = float("inf")
    backend.run(BatchKey(kind.stage, (3,), kind.dtype), [np.zeros((1, 3), np.float32)] * 4)
    assert card.launches == [[1, 1, 1, 1]]


def test_the_ceiling_grows_back_slowly_and_is_forgotten(
    gpu: MakeDevice, kind: BatchKey, item: MakeItem, clock: "Clock"
) -> None:
    card = gpu(room=2 * PLANE)
    backend = Backend([card], clock=clock, max_batch_bytes=16 * PLANE)
    batch = [item(value) for value in range(8)]
    backend.run(kind, batch)
    card.room = float("inf")
    sizes = []
    for _ in range(4):
        clock.now += 29.9
        card.launches.clear()
        backend.run(kind, batch)
        sizes.append([len(launch) for launch in card.launches])
        clock.now += 0.1
    assert sizes == [[2, 2, 2, 2], [4, 4], [8], [8]]


def test_a_large_item_is_run_in_parts_and_put_together(gpu: MakeDevice, kind: BatchKey) -> None:
    card = gpu()
    planes = np.arange(14, dtype=np.float32).reshape(7, 2)
    (outcome,) = Backend([card], max_batch_bytes=3 * PLANE).run(kind, [planes])
    assert isinstance(outcome, DeviceResult)
    np.testing.assert_array_equal(outcome.result[0].values, planes * 2)
    np.testing.assert_array_equal(outcome.result[1].values, planes + 1)
    assert outcome.result[0].indices is not None
    assert outcome.result[0].indices.shape == (7, 1)
    assert outcome.result[1].indices is None
    assert max(sum(launch) for launch in card.launches) <= 3
    assert (outcome.device, outcome.batch_size) == ("cuda:0", 1)


def test_a_large_item_of_bfloat16_keeps_its_type(gpu: MakeDevice, kind: BatchKey) -> None:
    planes = np.arange(8).reshape(4, 2).astype(ml_dtypes.bfloat16)
    card = gpu()
    (outcome,) = Backend([card], max_batch_bytes=8).run(BatchKey(kind.stage, (2,), planes.dtype), [planes])
    assert len(card.launches) > 1
    assert isinstance(outcome, DeviceResult)
    assert outcome.result[0].values.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(outcome.result[0].values, planes * 2)


def test_what_never_fits_into_the_device_runs_on_the_next(
    gpu: MakeDevice, cpu: MakeDevice, kind: BatchKey, item: MakeItem, answers: Answers
) -> None:
    processor = cpu()
    outcomes = Backend([gpu(room=PLANE / 2), processor]).run(kind, [item(1), item(2)])
    assert answers(outcomes) == [1, 2]
    assert processor.launches == [[1], [1]]


def test_what_fits_nowhere_fails_alone(gpu: MakeDevice, kind: BatchKey, item: MakeItem, answers: Answers) -> None:
    small, wide = item(1), np.zeros((1, 6), np.float32)
    assert answers(Backend([gpu(room=2 * PLANE)]).run(kind, [small, wide, small])) == [1, "DeviceOutOfMemory", 1]
