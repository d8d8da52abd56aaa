"""The charts of a report of `poolservice bench`, independent of the format in which they are drawn."""

import os
import platform
from collections.abc import Sequence
from typing import NamedTuple

from poolservice import __version__
from poolservice_client._cli.bench_measurement import PERCENTILES, Measurement, OpenLoop, rate_text
from poolservice_client._cli.bench_report import Report


class Series(NamedTuple):
    """The values of one line, or of one part of the bars.

    Attributes:
        name: its name in the legend.
        color: its color, as #rrggbb.
        values: a value for each row; None where nothing was measured.
        dashed: whether the line is a reference rather than a measurement.
    """

    name: str
    color: str
    values: Sequence[float | None]
    dashed: bool = False


class Chart(NamedTuple):
    """One chart.

    Attributes:
        title: its title.
        x_label, y_label: the titles of its axes.
        loads: the load of each row, in ascending order.
        series: the lines, or the parts of the bars from bottom to top.
        stacked: whether the chart has a bar for each row instead of lines.
        log: whether the vertical axis is logarithmic.
        marked_load: the load of the knee, which lines mark; None for none.
    """

    title: str
    x_label: str
    y_label: str
    loads: Sequence[float]
    series: Sequence[Series]
    stacked: bool = False
    log: bool = False
    marked_load: float | None = None

    @property
    def load_texts(self) -> list[str]:
        """The loads as text, for the labels of bars."""
        return list(map(rate_text, self.loads))


# Colors that people with any color vision can tell apart (Okabe and Ito, 2008).
_BLUE, _GREEN, _ORANGE, _RED, _SKY, _GRAY = "#0072b2", "#009e73", "#e69f00", "#d55e00", "#56b4e9", "#767676"
_PERCENTILE_COLORS = (_GREEN, _BLUE, _ORANGE, _RED)
_PART_COLORS = (_ORANGE, _RED, _BLUE, _GRAY)


def charts(report: Report) -> list[Chart]:
    """Return the charts of latency, throughput and the parts of the latency over the load."""
    rows = sorted(report.rows, key=_load)
    loads = list(map(_load, rows))
    x_label = "scheduled calls per second" if report.is_open_loop else "concurrent calls"
    knee = report.knee.rate if report.knee else None
    percentiles = [row.percentiles() for row in rows]
    parts = [row.mean_parts() for row in rows]
    throughput = [Series("responses", _BLUE, [row.rate for row in rows])]
    lost = [("refused", _RED, [row.refused for row in rows]), ("other errors", _ORANGE, [row.failed for row in rows])]
    if report.is_open_loop:
        throughput.insert(0, Series("scheduled", _GRAY, loads, dashed=True))
        lost.append(("not started", _SKY, [row.not_started for row in rows]))
    # A line that is zero everywhere says no more than the table does.
    throughput += [
        Series(name, color, [row.per_second(count) for row, count in zip(rows, counts, strict=True)])
        for name, color, counts in lost
        if any(counts)
    ]
    names = (*(f"p{one}" for one in PERCENTILES), "max")
    return [
        Chart(
            "Latency over load",
            x_label,
            "milliseconds",
            loads,
            [
                Series(name, color, [one.get(name) for one in percentiles])
                for name, color in zip(names, _PERCENTILE_COLORS, strict=True)
            ],
            log=True,
            marked_load=knee,
        ),
        Chart("Throughput over load", x_label, "calls per second", loads, throughput, marked_load=knee),
        Chart(
            "Parts of the mean latency",
            x_label,
            "milliseconds",
            loads,
            [
                Series(name, color, [one.get(name) for one in parts])
                for name, color in zip(("decode", "queue", "compute", "rest"), _PART_COLORS, strict=True)
            ],
            stacked=True,
        ),
    ]


def facts(report: Report) -> list[tuple[str, str]]:
    """Return the names and values of everything that identifies the measurement."""
    server = report.server
    return [
        ("server", f"poolservice {server.version}, torch {server.torch_version}, at {report.address}"),
        ("devices", ", ".join(f"{one.name} ({one.description}, {one.state})" for one in server.devices)),
        ("workers", str(server.workers)),
        ("request", str(report.workload)),
        ("client", f"poolservice {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"),
        ("command", report.command),
        ("date", report.date),
    ]


def _load(row: Measurement) -> float:
    return row.load.rate if isinstance(row.load, OpenLoop) else row.load.concurrency
