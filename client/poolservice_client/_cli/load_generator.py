"""The load generator of `poolservice bench`: makes concurrent calls for a fixed time and records their statistics."""

import asyncio
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from poolservice_client import AsyncPoolClient, Execution, Overloaded, PoolError

# The pause after an error that does not say when to retry, so that errors do not become a busy loop.
_ERROR_PAUSE_SECONDS = 0.1
PERCENTILES = (50, 90, 99)


def _numbers() -> "array[float]":
    return array("d")


@dataclass
class Measurement:
    """The statistics of one run of the load generator.

    Attributes:
        concurrency: the number of concurrent calls.
        seconds: the duration of the run, until its last response.
        busy_cores: this process's CPU time per second.
        latencies: the latency of each successful call, in milliseconds.
        decode, queue, compute: the milliseconds in each response's Execution; decode includes the preprocessing for a
            backbone.
        batch_sizes: the batch size in each response's Execution.
        devices: the number of responses that each device computed.
        errors: the number of failed calls by the error's class.
        first_errors: the message of the first error of each class.
    """

    concurrency: int
    seconds: float = 0.0
    busy_cores: float = 0.0
    latencies: "array[float]" = field(default_factory=_numbers)
    decode: "array[float]" = field(default_factory=_numbers)
    queue: "array[float]" = field(default_factory=_numbers)
    compute: "array[float]" = field(default_factory=_numbers)
    batch_sizes: "array[float]" = field(default_factory=_numbers)
    devices: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first_errors: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Responses per second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentiles(self) -> dict[str, float]:
        """Return the latency percentiles p50, p90 and p99 and the maximum; empty if no call succeeded."""
        if not self.latencies:
            return {}
        values = np.percentile(np.asarray(self.latencies), (*PERCENTILES, 100))
        return dict(zip((*(f"p{one}" for one in PERCENTILES), "max"), map(float, values), strict=True))

    def mean_parts(self) -> dict[str, float]:
        """Return the parts of the mean latency: the server's phases, and the rest (network, gRPC, client)."""
        if not self.latencies:
            return {}
        parts = {name: float(np.mean(getattr(self, name))) for name in ("decode", "queue", "compute")}
        return {**parts, "rest": max(float(np.mean(self.latencies)) - sum(parts.values()), 0.0)}

    def record_success(self, milliseconds: float, execution: Execution) -> None:
        """Record a successful call."""
        self.latencies.append(milliseconds)
        self.decode.append((execution.decode_microseconds + execution.preprocess_microseconds) / 1e3)
        self.queue.append(execution.queue_microseconds / 1e3)
        self.compute.append(execution.compute_microseconds / 1e3)
        self.batch_sizes.append(execution.batch_size)
        self.devices[execution.device] += 1

    def record_error(self, error: PoolError) -> None:
        """Record a failed call."""
        name = type(error).__name__
        self.errors[name] += 1
        self.first_errors.setdefault(name, str(error))


async def generate_load(
    client: AsyncPoolClient, x: Any, specs: Any, measurement: Measurement, *, seconds: float, **options: Any
) -> None:
    """Keep `measurement.concurrency` calls of `client.pool(x, specs, **options)` in flight for `seconds`.

    Each caller starts its next call as soon as its previous one returns. If this coroutine is cancelled, `measurement`
    has the calls that were complete.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    stop = started + seconds

    async def caller() -> None:
        while (call_started := time.perf_counter()) < stop:
            try:
                _, execution = await client.pool(x, specs, execution=True, **options)
            except PoolError as error:
                measurement.record_error(error)
                pause = error.retry_after if isinstance(error, Overloaded) else _ERROR_PAUSE_SECONDS
                await asyncio.sleep(max(min(pause, stop - time.perf_counter()), 0.0))
            else:
                measurement.record_success((time.perf_counter() - call_started) * 1e3, execution)

    try:
        async with asyncio.TaskGroup() as callers:
            for _ in range(measurement.concurrency):
                callers.create_task(caller())
    finally:
        measurement.seconds = time.perf_counter() - started
        measurement.busy_cores = (time.process_time() - cpu_started) / measurement.seconds
