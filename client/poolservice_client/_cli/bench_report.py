"""The report of `poolservice bench`, as a table and as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import typer

from poolservice_client import ClientStats, ServerInfo
from poolservice_client._cli.bench_knee import SWEEP, Knee
from poolservice_client._cli.bench_measurement import ClosedLoop, Measurement, OpenLoop, rate_text
from poolservice_client._cli.bench_workload import Workload
from poolservice_client._cli.tables import Column, print_table, print_text

# In cores. One Python process uses at most one, so above this the client is probably the bottleneck.
_BUSY_CORES = 0.9

PARTS_NOTE = (
    "p50 to rest are milliseconds; decode, queue, compute and rest are means and add up to the mean latency. "
    "decode includes resizing and cropping for a backbone."
)
OPEN_LOOP_NOTE = (
    "Latencies count from the time at which a call was due. refused are calls that the server refused; not started are "
    "calls that were due while too many were in flight."
)


class Report(NamedTuple):
    """All that one run of `poolservice bench` measured.

    Attributes:
        address: the server's address.
        server: the server's info.
        client: the client's counters.
        workload: the request.
        rows: one measurement for each concurrency or rate.
        capacity: the closed loop that a sweep began with; None without one.
        knee: up to which rate the server kept up; None if too few rates were measured.
        interrupted: whether the user ended the run early.
        command: the command line.
        date: when the run began, in UTC.
    """

    address: str
    server: ServerInfo
    client: ClientStats
    workload: Workload
    rows: Sequence[Measurement]
    capacity: Measurement | None
    knee: Knee | None
    interrupted: bool
    command: str
    date: str

    @property
    def is_open_loop(self) -> bool:
        """Return True if calls started on a schedule."""
        return self.capacity is not None or any(isinstance(row.load, OpenLoop) for row in self.rows)

    @property
    def measured(self) -> list[Measurement]:
        """All measurements, with that of the capacity."""
        return [*filter(None, [self.capacity]), *self.rows]

    @property
    def title(self) -> str:
        """What was measured: the server, its address and its devices."""
        devices = ", ".join(device.name for device in self.server.devices)
        return f"poolservice {self.server.version} at {self.address} on {devices}"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the headings and the cells of the table of all rows."""
        percentiles, parts = ("p50", "p90", "p99"), ("decode", "queue", "compute", "rest", "batch", "errors")
        if self.is_open_loop:
            headings = ["rate", "calls/s", *percentiles, "max", *parts, "refused", "not started"]
        else:
            headings = ["concurrency", "calls/s", *percentiles, *parts]
        return headings, [_cells(row) for row in self.rows]

    def notes(self) -> list[str]:
        """Return a sentence for everything that a reader of the table must know."""
        notes = [PARTS_NOTE]
        if self.is_open_loop:
            notes.append(OPEN_LOOP_NOTE)
        if self.capacity is not None:
            notes.append(
                f"The rates are {SWEEP[0]:.0%} to {SWEEP[-1]:.0%} of the {rate_text(self.capacity.rate)} calls/s that "
                f"{self.capacity.load} reached."
            )
        for row in self.measured:
            at = f"concurrency {row.load.concurrency}" if isinstance(row.load, ClosedLoop) else str(row.load)
            notes += [f"{count} x {name} at {at}: {row.first_errors[name]}" for name, count in row.errors.most_common()]
            if row.busy_cores > _BUSY_CORES:
                notes.append(
                    f"At {at} this client was busy {min(row.busy_cores, 1):.0%} of the time: the server may be faster."
                )
        if self.client.retries:
            notes.append(f"{self.client.retries:,} calls were retried after an error that may be temporary.")
        if self.knee is not None:
            notes.append(str(self.knee))
        if self.interrupted:
            notes.append("The run was interrupted: rows are missing, and the last one may be shorter than the others.")
        return notes

    def as_json(self) -> dict[str, Any]:
        """Return the report for a program."""
        return {
            "address": self.address,
            "version": self.server.version,
            "devices": [dataclasses.asdict(device) for device in self.server.devices],
            "workers": self.server.workers,
            "command": self.command,
            "date": self.date,
            "job": {
                "input": self.workload.name,
                "payload_bytes": self.workload.payload_bytes,
                "specs": self.workload.specs,
                **self.workload.options,
            },
            "interrupted": self.interrupted,
            "client": dataclasses.asdict(self.client),
            "rows": [_row_as_json(row) for row in self.rows],
            "capacity": self.capacity and _row_as_json(self.capacity),
            "knee": self.knee
            and {
                "calls_per_second": self.knee.rate,
                "is_bounded": self.knee.is_bounded,
                "p99_limit_ms": self.knee.p99_limit,
                "text": str(self.knee),
            },
        }


def print_report(report: Report) -> None:
    """Print the report as a table, with notes below it."""
    print_text(report.title)
    print_text(str(report.workload))
    typer.echo()
    headings, cells = report.table()
    print_table([Column(heading, numeric=True) for heading in headings], cells)
    typer.echo()
    for note in report.notes():
        print_text(note)


def _cells(row: Measurement) -> list[str]:
    latencies, parts, batch = row.percentiles(), row.mean_parts(), row.mean_batch_size()
    is_open = isinstance(row.load, OpenLoop)
    return [
        rate_text(row.load.rate) if isinstance(row.load, OpenLoop) else str(row.load.concurrency),
        rate_text(row.rate),
        *(f"{latencies[name]:.2f}" if latencies else "-" for name in ("p50", "p90", "p99", *(["max"] * is_open))),
        *(f"{parts[name]:.2f}" if parts else "-" for name in ("decode", "queue", "compute", "rest")),
        "-" if batch is None else f"{batch:.1f}",
        *((str(row.failed), str(row.refused), str(row.not_started)) if is_open else (str(row.errors.total()),)),
    ]


def _row_as_json(row: Measurement) -> dict[str, Any]:
    if isinstance(row.load, ClosedLoop):
        load: dict[str, Any] = {"concurrency": row.load.concurrency}
    else:
        load = {
            "rate": row.load.rate,
            "arrivals": row.load.arrivals,
            "max_outstanding": row.load.max_outstanding,
            "refused": row.refused,
            "not_started": row.not_started,
            "start_delay_ms": row.start_delay_percentiles(),
        }
    return {
        **load,
        "seconds": row.seconds,
        "calls": len(row.latencies),
        "calls_per_second": row.rate,
        "latency_ms": row.percentiles(),
        "mean_ms": row.mean_parts(),
        "mean_batch_size": row.mean_batch_size(),
        "client_busy_cores": row.busy_cores,
        "devices": dict(row.devices),
        "errors": [
            {"kind": name, "count": count, "first": row.first_errors[name]} for name, count in row.errors.most_common()
        ],
    }
