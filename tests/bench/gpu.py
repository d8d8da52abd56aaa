"""`make bench-gpu`: items a second on a CUDA card beside the CPU of the same machine, without any calls around them.

cpu          as the server runs batches without a card, one thread a batch
as served    as the server runs them on the card: pinned buffers, copies and kernels in streams of their own
pageable     the same with buffers that are not pinned
in sequence  the same with all of a batch in one stream

Everything is measured in interleaved rounds; the median of the rounds is told, and how it compares with the CPU.
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
from poolservice_server.stages import PoolStage

JOBS: dict[str, tuple[str, PoolSpec, tuple[int, int, int]]] = {
    "J1": ("float32 3x224x224, max 2x2", MaxPool2d(2), (3, 224, 224)),
    "J3": ("float32 512x7x7, global average", GlobalAvgPool2d(), (512, 7, 7)),
    "J4": ("float32 8x8x8, global average", GlobalAvgPool2d(), (8, 8, 8)),
}

console = Console()


def command(
    index: Annotated[int, typer.Option(help="The card's number.")] = 0,
    batch: Annotated[list[int] | None, typer.Option(help="Items in a batch; 1, 8 and 64 unless given.")] = None,
    threads: Annotated[int, typer.Option(help="Batches at a time; 0 for one a core.")] = 0,
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="Rounds over everything.")] = 5,
) -> None:
    """Measure items a second on a card, with and without pinned buffers and overlapping streams, and on the CPU."""
    if not torch.cuda.is_available():
        console.print(f"this needs a CUDA card, and torch {torch.__version__} finds none on this machine")
        raise typer.Exit(1)
    allocator.keep_large_messages()
    concurrency = threads or len(os.sched_getaffinity(0))
    devices: dict[str, Device] = {
        "cpu": CpuDevice(),
        "as served": CudaDevice(index),
        "pageable": CudaDevice(index, pinned=False),
        "in sequence": CudaDevice(index, overlapped=False),
    }
    console.print(
        f"{devices['as served'].description}, {devices['cpu'].description}, torch {torch.__version__}, "
        f"{concurrency} batches at a time"
    )
    for name, (title, spec, shape) in JOBS.items():
        table = Table(title=f"{name}: {title}")
        for column in ("items in a batch", "device", "items/s", "ms a batch", "it / cpu"):
            table.add_column(column, justify="left" if column == "device" else "right")
        stage = PoolStage((spec,))
        for size in batch or (1, 8, 64):
            random = np.random.default_rng(0)
            items = [random.random(shape, np.float32) for _ in range(size)]
            _check(devices, stage, items)
            _add_rows(table, _measure(devices, stage, items, concurrency, seconds, rounds), size, concurrency)
        console.print(table)


def _check(devices: dict[str, Device], stage: PoolStage, items: Sequence[np.ndarray]) -> None:
    """Every device must give the CPU's answer."""
    expected = devices["cpu"].run(stage, items)
    for name, device in devices.items():
        for (got,), (right,) in zip(device.run(stage, items), expected, strict=True):
            if not np.allclose(got.values, right.values, rtol=1e-6, atol=0):
                raise ValueError(f"{name} answered wrongly: {got.values.flat[:4]} for {right.values.flat[:4]}")


def _measure(
    devices: dict[str, Device],
    stage: PoolStage,
    items: Sequence[np.ndarray],
    concurrency: int,
    seconds: float,
    rounds: int,
) -> dict[str, list[float]]:
    """Batches a second of each device, one entry a round."""
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, device in devices.items():
            rates[name].append(_rate(device, stage, items, concurrency, seconds))
    return rates


def _rate(device: Device, stage: PoolStage, items: Sequence[np.ndarray], concurrency: int, seconds: float) -> float:
    """Batches a second when `concurrency` threads run them one after another."""
    done = [0] * concurrency
    started = time.perf_counter()

    def slot(number: int) -> None:
        while time.perf_counter() < started + seconds:
            device.run(stage, items)
            done[number] += 1

    threads = [threading.Thread(target=slot, args=(number,)) for number in range(concurrency)]
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
            end_section=name == "in sequence",
        )


if __name__ == "__main__":
    typer.run(command)
