"""`make bench-gpu`: compare the throughput of a CUDA GPU with that of the CPU of the same machine, without gRPC.

cpu          as the server runs batches without a GPU: one thread per batch
as served    as the server runs them on the GPU: pinned buffers, separate streams for copies and kernels
pageable     the same with buffers that are not pinned
one stream   the same with copies and kernels in one stream

Rounds over all devices are interleaved. The table shows the median of the rounds, and its ratio to the CPU.
"""

import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from poolservice.specs import GlobalAvgPool2d, MaxPool2d, PoolSpec
from poolservice_server import allocator
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.cuda import CudaDevice
from poolservice_server.backend.device import Device
from poolservice_server.pool_stage import PoolStage

JOBS: dict[str, tuple[str, PoolSpec, tuple[int, int, int]]] = {
    "J1": ("float32 3x224x224, max 2x2", MaxPool2d(2), (3, 224, 224)),
    "J3": ("float32 512x7x7, global average", GlobalAvgPool2d(), (512, 7, 7)),
    "J4": ("float32 8x8x8, global average", GlobalAvgPool2d(), (8, 8, 8)),
}

console = Console()


def command(
    index: Annotated[int, typer.Option(help="The number of the GPU.")] = 0,
    batch: Annotated[list[int] | None, typer.Option(help="Payloads per batch; by default 1, 8 and 64.")] = None,
    threads: Annotated[int, typer.Option(help="Concurrent batches; 0 for one per core.")] = 0,
    seconds: Annotated[float, typer.Option(help="The length of a measurement in seconds.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="The number of rounds.")] = 5,
) -> None:
    """Measure payloads per second on the CPU and on a GPU, with and without pinned buffers and separate streams."""
    if not torch.cuda.is_available():
        console.print(f"this benchmark needs a CUDA GPU, but torch {torch.__version__} finds none on this machine")
        raise typer.Exit(1)
    allocator.keep_large_messages()
    concurrency = threads or len(os.sched_getaffinity(0))
    devices: dict[str, Device] = {
        "cpu": CpuDevice(),
        "as served": CudaDevice(index),
        "pageable": CudaDevice(index, pinned=False),
        "one stream": CudaDevice(index, overlapped=False),
    }
    console.print(
        f"{devices['as served'].description}, {devices['cpu'].description}, torch {torch.__version__}, "
        f"{concurrency} concurrent batches"
    )
    for name, (title, spec, shape) in JOBS.items():
        table = Table(title=f"{name}: {title}")
        for column in ("payloads per batch", "device", "payloads/s", "ms per batch", "ratio to cpu"):
            table.add_column(column, justify="left" if column == "device" else "right")
        stage = PoolStage((spec,))
        for size in batch or (1, 8, 64):
            random = np.random.default_rng(0)
            payloads = [random.random(shape, np.float32) for _ in range(size)]
            _check(devices, stage, payloads)
            _add_rows(table, _measure(devices, stage, payloads, concurrency, seconds, rounds), size, concurrency)
        console.print(table)


def _check(devices: dict[str, Device], stage: PoolStage, payloads: Sequence[np.ndarray]) -> None:
    """Raise an error unless every device gives the CPU's results."""
    expected = devices["cpu"].run(stage, payloads)
    for name, device in devices.items():
        for (got,), (correct,) in zip(device.run(stage, payloads), expected, strict=True):
            if not np.allclose(got.values, correct.values, rtol=1e-6, atol=0):
                raise ValueError(f"{name} gives {got.values.flat[:4]} instead of {correct.values.flat[:4]}")


def _measure(
    devices: dict[str, Device],
    stage: PoolStage,
    payloads: Sequence[np.ndarray],
    concurrency: int,
    seconds: float,
    rounds: int,
) -> dict[str, list[float]]:
    """Return the batches per second of each device, one entry per round."""
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, device in devices.items():
            rates[name].append(_rate(device, stage, payloads, concurrency, seconds))
    return rates


def _rate(device: Device, stage: PoolStage, payloads: Sequence[np.ndarray], concurrency: int, seconds: float) -> float:
    """Return the batches per second of `concurrency` threads that each run one batch after another."""
    done = [0] * concurrency
    started = time.perf_counter()

    def run_batches(thread: int) -> None:
        while time.perf_counter() < started + seconds:
            device.run(stage, payloads)
            done[thread] += 1

    threads = [threading.Thread(target=run_batches, args=(number,)) for number in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started)


def _add_rows(table: Table, rates: dict[str, list[float]], size: int, concurrency: int) -> None:
    for name, rounds in rates.items():
        rate = statistics.median(rounds)
        ratio = statistics.median(ours / cpu for ours, cpu in zip(rounds, rates["cpu"], strict=True))
        table.add_row(
            str(size) if name == "cpu" else "",
            name,
            f"{rate * size:,.0f}",
            f"{1000 * concurrency / rate:.2f}",
            "" if name == "cpu" else f"{ratio:.2f}",
            end_section=name == "one stream",
        )


if __name__ == "__main__":
    typer.run(command)
