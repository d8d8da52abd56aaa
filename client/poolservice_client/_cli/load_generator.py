"""Calls kept under way for a while, as a program's own would be, and what each of them took."""

import asyncio
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from poolservice_client import AsyncPoolClient, Execution, Overloaded, PoolError

# Whoever was refused without being told when to come back waits this long, so that errors do not spin.
_PAUSE_SECONDS = 0.1
PERCENTILES = (50, 90, 99)


def _numbers() -> "array[float]":
    return array("d")


@dataclass
class Measured:
    """A stretch of calls, so many at a time.

    Attributes:
        concurrency: the calls that were under way at one time.
        seconds: how long the stretch was, until its last answer.
        busy: this process's CPU time for each second of it, in cores.
        latencies: of each call that was answered, in milliseconds, as all that follow.
        decode, queue, compute: what each answer's Execution says.
        batches: of how many requests each answer's batch was.
        devices: answers by the device that computed them.
        errors: calls that were not answered by the kind of error.
        first_errors: what the first of each kind said.
    """

    concurrency: int
    seconds: float = 0.0
    busy: float = 0.0
    latencies: "array[float]" = field(default_factory=_numbers)
    decode: "array[float]" = field(default_factory=_numbers)
    queue: "array[float]" = field(default_factory=_numbers)
    compute: "array[float]" = field(default_factory=_numbers)
    batches: "array[float]" = field(default_factory=_numbers)
    devices: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first_errors: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentiles(self) -> dict[str, float]:
        """The latencies within which 50, 90 and 99 of 100 calls were answered, and the longest; empty without calls."""
        if not self.latencies:
            return {}
        values = np.percentile(np.asarray(self.latencies), (*PERCENTILES, 100))
        return dict(zip((*(f"p{one}" for one in PERCENTILES), "max"), map(float, values), strict=True))

    def shares(self) -> dict[str, float]:
        """Where the mean call's time went: the server's parts, and the rest, which is network and both ends of it."""
        if not self.latencies:
            return {}
        parts = {name: float(np.mean(getattr(self, name))) for name in ("decode", "queue", "compute")}
        return {**parts, "rest": max(float(np.mean(self.latencies)) - sum(parts.values()), 0.0)}

    def answered(self, milliseconds: float, execution: Execution) -> None:
        """Count a call that was answered."""
        self.latencies.append(milliseconds)
        self.decode.append(execution.decode_microseconds / 1e3)
        self.queue.append(execution.queue_microseconds / 1e3)
        self.compute.append(execution.compute_microseconds / 1e3)
        self.batches.append(execution.batch_size)
        self.devices[execution.device] += 1

    def failed(self, error: PoolError) -> None:
        """Count a call that was not."""
        kind = type(error).__name__
        self.errors[kind] += 1
        self.first_errors.setdefault(kind, str(error))


async def keep_calling(
    client: AsyncPoolClient, x: Any, specs: Any, measured: Measured, *, seconds: float, **options: Any
) -> None:
    """Keep `measured.concurrency` calls of `client.pool(x, specs, **options)` under way for so long.

    The next starts as soon as one is answered. A cancellation leaves in `measured` what was answered until then.
    """
    started, used = time.perf_counter(), time.process_time()
    stop = started + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < stop:
            try:
                _, execution = await client.pool(x, specs, execution=True, **options)
            except PoolError as error:
                measured.failed(error)
                pause = error.retry_after if isinstance(error, Overloaded) else _PAUSE_SECONDS
                await asyncio.sleep(max(min(pause, stop - time.perf_counter()), 0.0))
            else:
                measured.answered((time.perf_counter() - began) * 1e3, execution)

    try:
        async with asyncio.TaskGroup() as callers:
            for _ in range(measured.concurrency):
                callers.create_task(caller())
    finally:
        measured.seconds = time.perf_counter() - started
        measured.busy = (time.process_time() - used) / measured.seconds
