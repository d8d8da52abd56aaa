"""Draw the dashboard's queries with the data of a Prometheus, in the places of their panels."""

from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from PIL import Image
from tests.observe.documents import Json, dashboard
from tests.observe.prometheus import Prometheus, Series

TITLE = (
    "The queries of the dashboard's first rows with the data of a real server, %d s of changing load.\n"
    "Drawn with matplotlib; this is no screenshot of Grafana."
)
# The rows that describe what a server does. Those below, devices to processes, are mostly flat while all is well.
_ROWS = 4
_COLUMN_INCHES = 0.55
_LINE_INCHES = 0.29
_LINES_SHOWN = 6
_COLORS = 200


def draw(prometheus: Prometheus, path: Path, start: float, end: float, rate_interval: str) -> None:
    """Draw the panels of the first rows into a PNG file.

    Args:
        prometheus: where the data comes from.
        path: the file.
        start: the left end of the time axes, in Unix time.
        end: their right end.
        rate_interval: what stands for Grafana's $__rate_interval, such as 10s.
    """
    mpl.use("agg")
    panels = _first_rows(dashboard()["panels"])
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + 2
    figure = plt.figure(figsize=(24 * _COLUMN_INCHES, lines * _LINE_INCHES), facecolor="white")
    figure.suptitle(TITLE % (end - start), fontsize=9, y=1 - 0.3 / lines)
    for panel in panels:
        place = panel["gridPos"]
        left, width = place["x"] / 24, place["w"] / 24
        top, height = 1 - (place["y"] + 1.8) / lines, place["h"] / lines
        if panel["type"] == "row":
            figure.text(left + 0.005, top - height * 0.8, panel["title"], fontsize=12, fontweight="bold")
            continue
        axes = figure.add_axes((left + 0.04, top - height * 0.86, width - 0.05, height * 0.72))
        axes.set_title(panel["title"], fontsize=8, loc="left", pad=3)
        axes.tick_params(labelsize=6, length=2, pad=1)
        series = [
            (target, one)
            for target in panel["targets"]
            for one in prometheus.ranges(_expression(target, rate_interval), start, end, (end - start) / 200)
        ]
        axes.set_xlim(0, end - start)
        _DRAWN[panel["type"]](axes, panel, series, start)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=88)
    plt.close(figure)
    # Fewer colors make the file a third as large.
    Image.open(drawn).convert("RGB").quantize(_COLORS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def _first_rows(panels: list[Json]) -> list[Json]:
    rows = [number for number, panel in enumerate(panels) if panel["type"] == "row"]
    return panels[: rows[_ROWS]]


def _expression(target: Json, rate_interval: str) -> str:
    text: str = target["expr"]
    return text.replace("$instance", ".*").replace("$__rate_interval", rate_interval)


def _values(one: Series, start: float) -> tuple[Any, Any]:
    times, values = zip(*one["values"], strict=True)
    return np.array(times, float) - start, np.array(values, float)


def _timeseries(axes: Axes, panel: Json, series: list[tuple[Json, Series]], start: float) -> None:
    shown = sorted(series, key=lambda pair: -float(np.nansum(_values(pair[1], start)[1])))[:_LINES_SHOWN]
    for target, one in shown:
        legend = target["legendFormat"]
        for label, value in one["metric"].items():
            legend = legend.replace(f"{{{{{label}}}}}", value)
        axes.plot(*_values(one, start), linewidth=0.8, label=legend)
    if shown:
        axes.legend(fontsize=6, loc="upper left", frameon=False, ncols=2)
    else:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", fontsize=7, color="gray")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_formatter(panel))
    axes.spines[["top", "right"]].set_visible(False)


def _stat(axes: Axes, panel: Json, series: list[tuple[Json, Series]], start: float) -> None:
    values = [_values(one, start)[1][-1] for _, one in series]
    axes.set_axis_off()
    text = ", ".join(_formatter(panel)(value) for value in values) or "no data"
    axes.text(0.0, 0.4, text, transform=axes.transAxes, fontsize=13, color="tab:green")


def _heatmap(axes: Axes, panel: Json, series: list[tuple[Json, Series]], start: float) -> None:
    ordered = sorted((one for _, one in series), key=lambda one: float(one["metric"]["le"]))
    finite = [one for one in ordered if one["metric"]["le"] != "+Inf"]
    times = _values(finite[0], start)[0]
    counts = np.diff(np.array([np.interp(times, *_values(one, start)) for one in finite]), axis=0, prepend=0)
    limits = [float(one["metric"]["le"]) for one in finite]
    axes.pcolormesh(times, [limits[0] / 2, *limits], np.sqrt(counts)[:, 1:], cmap="Blues")
    axes.set_yscale("log")
    used = np.flatnonzero(counts.sum(axis=1))
    axes.set_ylim(limits[max(0, used[0] - 1)], limits[used[-1]])
    axes.yaxis.set_major_formatter(_formatter(panel))


def _table(axes: Axes, panel: Json, series: list[tuple[Json, Series]], start: float) -> None:
    axes.set_axis_off()
    hidden = ("__name__", "job")
    for line, (_, one) in enumerate(series):
        text = ", ".join(f"{label} {value}" for label, value in one["metric"].items() if label not in hidden)
        axes.text(0.0, 0.8 - 0.2 * line, text, transform=axes.transAxes, fontsize=6)


def _formatter(panel: Json) -> FuncFormatter:
    unit = panel["fieldConfig"]["defaults"]["unit"]

    def formatted(value: float, _: object = None) -> str:
        if unit == "s":
            scale, name = (1e6, "µs") if value < 1e-3 else (1e3, "ms") if value < 1 else (1, "s")
            return f"{value * scale:.3g} {name}" if value else "0"
        if unit == "percentunit":
            return f"{100 * value:.3g} %"
        if unit in ("bytes", "Bps"):
            return f"{value / 1e6:.3g} MB{'/s' if unit == 'Bps' else ''}"
        return f"{value:.3g}{'/s' if unit in ('reqps', 'ops') else ''}"

    return FuncFormatter(formatted)


_DRAWN = {"timeseries": _timeseries, "stat": _stat, "heatmap": _heatmap, "table": _table}
