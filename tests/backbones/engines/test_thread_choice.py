"""The choice between runs with one thread each and one run with several threads."""

from collections.abc import Sequence

import numpy as np
import pytest

from poolservice_server.backbones.engines.thread_choice import faster_engine


class FakeClock:
    """A clock that only the runs of engines advance."""

    seconds = 0.0

    def read(self) -> float:
        return self.seconds


class FakeEngine:
    """Advances the clock instead of running a network."""

    name = "onnxruntime"

    def __init__(self, threads: int, waits: float, clock: FakeClock) -> None:
        self.tensors: Sequence[str] = ("features",)
        self.threads = threads
        self.closed = False
        self._seconds = 0.01 + 0.01 * waits
        self._clock = clock

    def run(self, samples: np.ndarray, _tensors: object) -> list[np.ndarray]:
        self._clock.seconds += self._seconds
        return [samples]

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("single_waits", "wide_waits", "chosen"), [(1, 0, 2), (0, 1, 1), (0, 0, 1), (0.05, 0, 1), (0.15, 0, 2)]
)
def test_an_engine_that_is_clearly_faster_is_chosen_and_the_other_closed(
    single_waits: float, wide_waits: float, chosen: int
) -> None:
    clock = FakeClock()
    single, wide = FakeEngine(1, single_waits, clock), FakeEngine(2, wide_waits, clock)
    sample = np.zeros((1, 3, 4, 4), np.float32)
    engine = faster_engine(single, lambda: wide, sample, ["features"], 1, clock=clock.read)
    assert engine.threads == chosen
    assert single.closed is (chosen == 2)
    assert wide.closed is (chosen == 1)
