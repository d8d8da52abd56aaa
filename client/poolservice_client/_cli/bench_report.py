"""The report of `poolservice bench`, as a table and as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from poolservice_client import ClientStats, ServerInfo
from poolservice_client._cli.load_generator import Measurement
from poolservice_client._cli.operator_parser import Operator
from poolservice_client._cli.tables import Column, print_table, print_text

# In cores. One Python process uses at most one, so above this the client is probably the bottleneck.
_BUSY_CORES = 0.9

_COLUMNS = tuple(
    Column(heading, numeric=True)
    for heading in (
        "concurrency",
        "calls/s",
        "p50",
        "p90",
        "p99",
        "decode",
        "queue",
        "compute",
        "rest",
        "batch",
        "errors",
    )
)


class Workload(NamedTuple):
    """The request that every call sends.

    Attributes:
        operators: the operators.
        payload: the bytes of an encoded image, or an array.
        name: the payload's description.
        options: further keywords of `pool`.
    """

    operators: list[Operator]
    payload: bytes | NDArray[Any]
    name: str
    options: dict[str, Any]

    @property
    def payload_bytes(self) -> int:
        """The payload's size."""
        return len(self.payload) if isinstance(self.payload, bytes) else self.payload.nbytes

    @property
    def specs(self) -> list[str]:
        """The specs as they would be written in Python."""
        return [operator.layer for operator in self.operators]


class Report(NamedTuple):
    """All that one run of `poolservice bench` measured.

    Attributes:
        address: the server's address.
        server: the server's info.
        client: the client's counters.
        workload: the request.
        rows: one measurement for each concurrency.
        interrupted: whether the user ended the run early.
    """

    address: str
    server: ServerInfo
    client: ClientStats
    workload: Workload
    rows: Sequence[Measurement]
    interrupted: bool

    def as_json(self) -> dict[str, Any]:
        """Return the report for a program."""
        return {
            "address": self.address,
            "version": self.server.version,
            "devices": [dataclasses.asdict(device) for device in self.server.devices],
            "job": {
                "input": self.workload.name,
                "payload_bytes": self.workload.payload_bytes,
                "specs": self.workload.specs,
                **self.workload.options,
            },
            "interrupted": self.interrupted,
            "client": dataclasses.asdict(self.client),
            "rows": [_row_as_json(row) for row in self.rows],
        }


def print_report(report: Report) -> None:
    """Print the report as a table, with notes below it."""
    devices = ", ".join(device.name for device in report.server.devices)
    print_text(f"poolservice {report.server.version} at {report.address} on {devices}")
    specs = ", ".join(report.workload.specs)
    print_text(f"{specs} of {report.workload.name}, {report.workload.payload_bytes:,} bytes per call")
    typer.echo()
    print_table(_COLUMNS, map(_cells, report.rows))
    typer.echo()
    print_text(
        "p50 to rest are milliseconds; decode, queue, compute and rest are means and add up to the mean latency. "
        "decode includes resizing and cropping for a backbone."
    )
    for row in report.rows:
        for name, count in row.errors.most_common():
            print_text(f"{count} x {name} at concurrency {row.concurrency}: {row.first_errors[name]}")
        if row.busy_cores > _BUSY_CORES:
            print_text(
                f"At concurrency {row.concurrency} this client was busy {min(row.busy_cores, 1):.0%} of the time: "
                "the server may be faster."
            )
    if report.client.retries:
        print_text(f"{report.client.retries:,} calls were retried after an error that may be temporary.")


def _cells(row: Measurement) -> list[str]:
    latencies, parts = row.percentiles(), row.mean_parts()
    return [
        str(row.concurrency),
        f"{row.rate:,.0f}" if row.rate >= 10 else f"{row.rate:.2g}",
        *(f"{latencies[name]:.2f}" if latencies else "-" for name in ("p50", "p90", "p99")),
        *(f"{parts[name]:.2f}" if parts else "-" for name in ("decode", "queue", "compute", "rest")),
        f"{np.mean(row.batch_sizes):.1f}" if row.batch_sizes else "-",
        str(row.errors.total()),
    ]


def _row_as_json(row: Measurement) -> dict[str, Any]:
    return {
        "concurrency": row.concurrency,
        "seconds": row.seconds,
        "calls": len(row.latencies),
        "calls_per_second": row.rate,
        "latency_ms": row.percentiles(),
        "mean_ms": row.mean_parts(),
        "mean_batch_size": float(np.mean(row.batch_sizes)) if row.batch_sizes else None,
        "client_busy_cores": row.busy_cores,
        "devices": dict(row.devices),
        "errors": [
            {"kind": name, "count": count, "first": row.first_errors[name]} for name, count in row.errors.most_common()
        ],
    }
