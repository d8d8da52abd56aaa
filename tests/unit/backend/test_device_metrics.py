"""The metrics of devices count batches, failures and what other devices had to run."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry

from poolservice_server.backend import Backend
from poolservice_server.metrics.devices import DeviceMetrics
from poolservice_server.pool_stage import BatchKey

if TYPE_CHECKING:
    from tests.unit.backend.conftest import Clock, FakeDevice

MakeDevice = Callable[..., "FakeDevice"]
MakePayload = Callable[..., np.ndarray]

# The bytes of a plane.
PLANE = 8


class Metrics:
    """The metrics of a backend's devices."""

    def __init__(self, backend: Backend) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(DeviceMetrics(backend))

    def value(self, name: str, device: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"poolservice_{name}", {"device": device, **labels})

    def events(self, device: str) -> dict[str, float]:
        """Return the events of a device that have happened."""
        events = {}
        for event in ("out_of_memory", "failure", "suspension", "probe", "fallback"):
            if value := self.value("device_events_total", device, event=event):
                events[event] = value
        return events


def test_each_part_of_a_split_batch_counts_with_its_size(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload
) -> None:
    backend = Backend([gpu(capacity=4 * PLANE), cpu()])
    metrics = Metrics(backend)
    backend.run(key, [payload(value) for value in range(8)])
    backend.run(key, [payload(1)])
    assert metrics.value("batch_size_count", "cuda:0") == 3
    assert metrics.value("batch_size_sum", "cuda:0") == 9
    sizes = [metrics.value("batch_size_bucket", "cuda:0", le=le) for le in ("1.0", "2.0", "4.0", "+Inf")]
    assert sizes == [1, 1, 3, 3]
    assert metrics.value("device_requests_total", "cuda:0") == 9
    assert metrics.events("cuda:0") == {"out_of_memory": 1}
    assert metrics.value("batch_size_count", "cpu") == 0


def test_a_payload_that_never_fits_falls_back(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload
) -> None:
    backend = Backend([gpu(capacity=PLANE - 1), cpu()])
    metrics = Metrics(backend)
    backend.run(key, [payload(1)])
    assert metrics.events("cuda:0") == {"out_of_memory": 1, "fallback": 1}
    assert metrics.events("cpu") == {}
    assert metrics.value("batch_size_count", "cpu") == 1


def test_batches_fall_back_when_a_device_fails_and_while_it_is_suspended(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload, clock: "Clock"
) -> None:
    fake_gpu = gpu(fails_every=1, computes_correctly=False)
    backend = Backend([fake_gpu, cpu()], clock=clock)
    metrics = Metrics(backend)
    backend.run(key, [payload(1)])
    assert metrics.events("cuda:0") == {"failure": 2, "suspension": 1, "fallback": 1}
    assert metrics.value("device_suspended", "cuda:0") == 1
    backend.run(key, [payload(1), payload(2)])
    assert metrics.events("cuda:0")["fallback"] == 2
    clock.now += 10
    backend.run(key, [payload(1)])
    assert metrics.events("cuda:0") == {"failure": 2, "suspension": 1, "fallback": 3, "probe": 1}
    clock.now += 10
    fake_gpu.computes_correctly, fake_gpu.fails_every = True, None
    backend.run(key, [payload(1)])
    assert metrics.value("device_suspended", "cuda:0") == 0
    assert metrics.events("cuda:0")["fallback"] == 3
    assert metrics.value("device_requests_total", "cpu") == 4


def test_a_device_that_does_not_support_a_stage_falls_back(
    gpu: MakeDevice, cpu: MakeDevice, key: BatchKey, payload: MakePayload
) -> None:
    backend = Backend([gpu(unsupported=TypeError("no such dtype")), cpu()])
    backend.run(key, [payload(1)])
    assert Metrics(backend).events("cuda:0") == {"fallback": 1}


def test_the_last_device_has_nowhere_to_fall_back_to(gpu: MakeDevice, key: BatchKey, payload: MakePayload) -> None:
    backend = Backend([gpu(fails_every=1)])
    backend.run(key, [payload(1)])
    assert Metrics(backend).events("cuda:0") == {"failure": 2, "suspension": 1}


def test_memory_is_shown_where_torch_counts_it(gpu: MakeDevice, cpu: MakeDevice) -> None:
    metrics = Metrics(Backend([gpu(torch_memory={"allocated": 7, "reserved": 12}), cpu()]))
    assert metrics.value("device_memory_bytes", "cuda:0", state="allocated") == 7
    assert metrics.value("device_memory_bytes", "cuda:0", state="reserved") == 12
    assert metrics.value("device_memory_bytes", "cpu", state="allocated") is None
