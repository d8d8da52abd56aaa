"""The report of `poolservice bench` as a PNG image; needs the `figure` extra (matplotlib)."""

import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from poolservice_client._cli.bench_charts import Chart, charts, facts
from poolservice_client._cli.bench_report import Report
from poolservice_client._cli.message_text import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_INCHES = 9.0
_CHART_INCHES = 3.4
_LINE_INCHES = 0.15
_CHARACTERS = 120


def save(path: Path, report: Report) -> None:
    """Draw the report into a PNG file.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    lines = [line for name, value in facts(report) for line in _wrapped(f"{name}: {value}")]
    if report.knee:
        lines += _wrapped(str(report.knee))
    drawn = charts(report)
    text_inches = _LINE_INCHES * (len(lines) + 1)
    height = text_inches + _CHART_INCHES * len(drawn)
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=120)
    panels = figure.subplots(len(drawn), 1)
    for axes, chart in zip(panels, drawn, strict=True):
        _draw(axes, chart)
    # A dollar sign in a file's name does not begin a formula.
    figure.text(0.02, 1 - 0.1 / height, "\n".join(lines), va="top", fontsize=8, parse_math=False)
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.tight_layout(rect=(0, 0, 1, 1 - text_inches / height))
        figure.savefig(path, format="png")


def _draw(axes: "Axes", chart: Chart) -> None:
    axes.set_title(chart.title, fontsize=10)
    axes.set_xlabel(chart.x_label, fontsize=8)
    axes.set_ylabel(chart.y_label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_axisbelow(True)
    if chart.stacked:
        positions, bottoms = range(len(chart.loads)), [0.0] * len(chart.loads)
        for one in chart.series:
            values = [value or 0.0 for value in one.values]
            axes.bar(positions, values, bottom=bottoms, color=one.color, label=one.name, width=0.6)
            bottoms = [bottom + value for bottom, value in zip(bottoms, values, strict=True)]
        axes.set_xticks(positions, chart.load_texts)
    else:
        for one in chart.series:
            values = [float("nan") if value is None else value for value in one.values]
            style = "--" if one.dashed else "o-"
            axes.plot(chart.loads, values, style, color=one.color, label=one.name, markersize=4)
        axes.set_xlim(left=0)
        if chart.log and any(value for one in chart.series for value in one.values):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        if chart.marked_load is not None:
            axes.axvline(chart.marked_load, color="#444444", linestyle=":", label="knee")
    axes.legend(fontsize=8)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(escape(text), _CHARACTERS)
