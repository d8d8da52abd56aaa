"""Draws a chart of `poolservice bench` as an SVG element."""

import math
from collections.abc import Iterator
from html import escape

from poolservice_client._cli.bench_charts import Chart

_WIDTH, _HEIGHT = 760, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 640, 34, 290
_TICKS = 6


class _Axis:
    """Converts values to positions on the page."""

    def __init__(self, low: float, high: float, first: float, last: float, *, log: bool = False) -> None:
        self._low, self._high, self._first, self._last, self._log = low, high, first, last, log

    def __call__(self, value: float) -> float:
        low, high = self._low, self._high
        if self._log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(self._first + (self._last - self._first) * (value - low) / (high - low), 1)

    def ticks(self) -> Iterator[float]:
        """Yield the values of the axis's ticks, in ascending order."""
        if self._log:
            powers = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
            ticks = [tick for power in powers for step in (1, 2, 5) if self._has(tick := step * 10.0**power)]
            if len(ticks) < 2:
                ticks = [tick for power in powers for step in range(1, 10) if self._has(tick := step * 10.0**power)]
            yield from ticks
        else:
            step = _step((self._high - self._low) / _TICKS)
            yield from (number * step for number in range(math.floor(self._high / step) + 1))

    def _has(self, value: float) -> bool:
        return self._low <= value <= self._high


def draw(chart: Chart) -> str:
    """Return the chart as an `svg` element, with all its texts escaped."""
    x, y = _x_axis(chart), _y_axis(chart)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(chart.title)}">',
        _text((_LEFT + _RIGHT) / 2, 18, chart.title, "middle", "title"),
        *_grid(chart, x, y),
        *(_bars(chart, x, y) if chart.stacked else _lines(chart, x, y)),
        *_legend(chart),
        "</svg>",
    ]
    return "\n".join(parts)


def _x_axis(chart: Chart) -> _Axis:
    if chart.stacked:
        # A bar for each row, at equal distances.
        return _Axis(-0.5, max(len(chart.loads), 1) - 0.5, _LEFT, _RIGHT)
    return _Axis(0.0, max(chart.loads, default=1.0) * 1.05, _LEFT, _RIGHT)


def _y_axis(chart: Chart) -> _Axis:
    if chart.stacked:
        values = [sum(value or 0.0 for value in bar) for bar in zip(*(one.values for one in chart.series), strict=True)]
    else:
        values = [value for one in chart.series for value in one.values if value is not None]
    highest = max(values, default=0.0)
    if chart.log:
        lowest = min((value for value in values if value > 0), default=1.0)
        # Wide enough for a tick, even around a single value.
        return _Axis(lowest / 1.5, max(highest, lowest) * 1.5, _BOTTOM, _TOP, log=True)
    return _Axis(0.0, highest * 1.05 or 1.0, _BOTTOM, _TOP)


def _grid(chart: Chart, x: _Axis, y: _Axis) -> Iterator[str]:
    for tick in y.ticks():
        yield f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>'
        yield _text(_LEFT - 6, y(tick) + 4, _number(tick), "end")
    labels = enumerate(chart.load_texts) if chart.stacked else ((tick, _number(tick)) for tick in x.ticks())
    for position, label in labels:
        yield _text(x(position), _BOTTOM + 16, label, "middle")
    yield f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>'
    yield _text((_LEFT + _RIGHT) / 2, _BOTTOM + 36, chart.x_label, "middle")
    yield f'<g transform="translate(14 {(_TOP + _BOTTOM) / 2}) rotate(-90)">{_text(0, 0, chart.y_label, "middle")}</g>'
    if chart.marked_load is not None:
        position = x(chart.marked_load)
        yield f'<line class="knee" x1="{position}" x2="{position}" y1="{_TOP}" y2="{_BOTTOM}"/>'
        is_left = position < (_LEFT + _RIGHT) / 2
        yield _text(position + (4 if is_left else -4), _TOP + 10, "knee", "start" if is_left else "end")


def _lines(chart: Chart, x: _Axis, y: _Axis) -> Iterator[str]:
    for one in chart.series:
        points = [
            (x(load), y(value), value)
            for load, value in zip(chart.loads, one.values, strict=True)
            if value is not None and (value > 0 or not chart.log)
        ]
        dash = ' stroke-dasharray="5 4"' if one.dashed else ""
        path = " ".join(f"{left},{top}" for left, top, _ in points)
        yield f'<polyline points="{path}" stroke="{one.color}"{dash}/>'
        for left, top, value in [] if one.dashed else points:
            hint = escape(f"{one.name}: {_number(value)} {chart.y_label}")
            yield f'<circle cx="{left}" cy="{top}" r="3" fill="{one.color}"><title>{hint}</title></circle>'


def _bars(chart: Chart, x: _Axis, y: _Axis) -> Iterator[str]:
    width = round(min(0.6 * (x(1) - x(0)), 60.0), 1)
    for row in range(len(chart.loads)):
        bottom = 0.0
        for one in chart.series:
            value = one.values[row] or 0.0
            top, height = y(bottom + value), round(y(bottom) - y(bottom + value), 1)
            hint = escape(f"{one.name}: {_number(value)} {chart.y_label}")
            yield (
                f'<rect x="{x(row) - width / 2:.1f}" y="{top}" width="{width}" height="{height}" fill="{one.color}">'
                f"<title>{hint}</title></rect>"
            )
            bottom += value


def _legend(chart: Chart) -> Iterator[str]:
    for number, one in enumerate(reversed(chart.series) if chart.stacked else chart.series):
        top, height = _TOP + 8 + 20 * number, 3 if one.dashed else 10
        yield f'<rect x="{_RIGHT + 16}" y="{top - 8}" width="14" height="{height}" fill="{one.color}"/>'
        yield _text(_RIGHT + 36, top + 1, one.name, "start")


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def _step(rough: float) -> float:
    """Return the next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
