"""The figure of a timeline: for each load, a panel of one second and a panel of a few milliseconds of it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from timeline_spans import Intervals

_CLIENT, _WIRE, _SERVER = "#1f77b4", "#7f7f7f", "#d95f02"

_COLUMNS = 500
_CLOSE_UP_NANOSECONDS = 30_000_000
_PNG_COLORS = 64


class Panel(NamedTuple):
    """What one panel shows.

    Attributes:
        title: the load.
        start, end: the second.
        rows: when each row is filled, by its name, from the top.
    """

    title: str
    start: int
    end: int
    rows: dict[str, Intervals]


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write the figure to a file whose name ends with .png or .svg."""
    figure = Figure(figsize=(13, 1.95 * len(panels) + 0.5), dpi=75, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 2, squeeze=False, width_ratios=(3, 2))
    for panel, (second, close_up) in zip(panels, axes, strict=True):
        _draw_density(second, panel)
        _draw_bars(close_up, panel)
    for below in axes[-1]:
        below.set_xlabel("milliseconds", fontsize=8)
    if path.suffix == ".svg":
        figure.savefig(path, metadata={"Date": None})
        return
    file = io.BytesIO()
    figure.savefig(file, format="png")
    # A figure of few colors takes a third of the bytes with a palette.
    Image.open(file).convert("RGB").quantize(_PNG_COLORS).save(path, optimize=True)


def _draw_density(axes: Axes, panel: Panel) -> None:
    """Draw the whole second: the darker a column of a row, the more of its two milliseconds is filled."""
    edges = np.linspace(panel.start, panel.end, _COLUMNS + 1)
    for number, (name, intervals) in enumerate(panel.rows.items()):
        filled = np.interp(edges, *_cumulative(intervals, panel))
        density = np.diff(filled) / np.diff(edges)
        red, green, blue = (int(_color(name)[at : at + 2], 16) / 255 for at in (1, 3, 5))
        image = np.empty((1, _COLUMNS, 4))
        image[..., :3] = red, green, blue
        image[..., 3] = density
        axes.imshow(image, extent=(0, 1000, number + 0.4, number - 0.4), aspect="auto", interpolation="nearest")
    _label(axes, panel, f"{panel.title}: one second")
    axes.set_xlim(0, 1000)
    axes.set_yticks(range(len(panel.rows)), list(panel.rows), fontsize=8)


def _draw_bars(axes: Axes, panel: Panel) -> None:
    """Draw a few milliseconds from the middle of the second."""
    start = (panel.start + panel.end) // 2
    end = start + _CLOSE_UP_NANOSECONDS
    for number, (name, intervals) in enumerate(panel.rows.items()):
        clipped = np.clip(intervals, start, end)
        shown = clipped[clipped[:, 1] > clipped[:, 0]]
        bars = np.stack((shown[:, 0] - start, shown[:, 1] - shown[:, 0]), axis=1) / 1e6
        axes.broken_barh([(left, width) for left, width in bars], (number - 0.4, 0.8), color=_color(name))
    _label(axes, panel, f"{_CLOSE_UP_NANOSECONDS // 1_000_000} milliseconds of it")
    axes.set_xlim(0, _CLOSE_UP_NANOSECONDS / 1e6)
    axes.set_yticks(range(len(panel.rows)), [""] * len(panel.rows))


def _label(axes: Axes, panel: Panel, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    axes.tick_params(labelsize=8)


def _cumulative(intervals: Intervals, panel: Panel) -> tuple[Intervals, Intervals]:
    """Return times, and how much is filled until each of them."""
    clipped = np.clip(intervals, panel.start, panel.end)
    lengths = clipped[:, 1] - clipped[:, 0]
    ends = np.cumsum(lengths)
    times = np.concatenate(([panel.start], clipped.ravel(), [panel.end]))
    filled = np.concatenate(([0], np.stack((ends - lengths, ends), axis=1).ravel(), [lengths.sum()]))
    return times, filled


def _color(row: str) -> str:
    if row.startswith("to "):
        return _WIRE
    return _CLIENT if row.startswith("client") else _SERVER
