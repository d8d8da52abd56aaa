"""The before-and-after figure: the input and what each layer made of it, side by side, as in a notebook.

Each result is stretched to the input's size, so that a value covers the area that it came from; the ticks count its
own pixels.

Needs matplotlib, which `pip install 'poolservice[figure]'` brings; nothing here imports it before it draws.
"""

import math
import textwrap
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_PANEL_INCHES = 3.1
_DPI = 110
#: Feature maps of more channels than a picture has are shown as a sheet of this many.
_SHEET = 16
#: Values that are still told apart, and written out, as bars.
_BARS = 12
_GREEN = "#4c9f70"


class Panel(NamedTuple):
    """One array of the figure.

    Attributes:
        title: what it is: the input's name, or the layer as it would be written.
        values: (C, *spatial) or (N, C, *spatial), of which the first is shown; or a feature vector, (D,) or (N, D).
        spatial_dims: how many dimensions are spatial, 0 for a feature vector.
        before: the shape that it was pooled from; None for the input itself.
    """

    title: str
    values: np.ndarray
    spatial_dims: int
    before: tuple[int, ...] | None = None


def save(path: str | PathLike[str], panels: Sequence[Panel], *, scale: tuple[float, float] | None = None) -> None:
    """Draws `panels` in rows and writes them to `path`, in the format of its suffix (.png, .pdf, .svg, ...).

    Args:
        path: where to write; replaced if it is there.
        panels: the input first, then the results.
        scale: the values that are shown darkest and brightest; (0, 1) for pictures. Default: the least and the
            greatest value of the first panel, so that all panels can be compared.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: `path` cannot be written.
        ValueError: matplotlib does not write this format, or a panel has no values.
    """
    # Figure itself, not pyplot: no global state, and no window system is looked for.
    from matplotlib.figure import Figure

    for panel in panels:
        if panel.values.size == 0:
            raise ValueError(f"{panel.title} is {_by(panel.values.shape)}: there is nothing to draw")
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    first = _unbatched(panels[0])
    limits = scale or _limits(first)
    aspect = _aspect(first, panels[0].spatial_dims)
    height = _PANEL_INCHES * aspect + 0.3 + 0.14 * max(len(_title(panel)) for panel in panels)
    figure = Figure(figsize=(_PANEL_INCHES * columns, height * rows), dpi=_DPI, layout="constrained")
    every_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, axes in zip(panels, every_axes, strict=False):
        axes.set_box_aspect(aspect)
        _draw(axes, panel, limits)
    for axes in every_axes[len(panels) :]:
        axes.set_axis_off()
    figure.savefig(path)


def _draw(axes: "Axes", panel: Panel, limits: tuple[float, float]) -> None:
    values = _unbatched(panel)
    axes.set_title("\n".join(_title(panel)), fontsize=9)
    axes.tick_params(labelsize=7)
    if math.prod(values.shape[1:]) == 1:
        _bars(axes, values.ravel())
    elif panel.spatial_dims == 1:
        axes.plot(values.T, linewidth=1)
        axes.margins(x=0)
    else:
        # Of a volume, the slice in the middle.
        planes = values if panel.spatial_dims == 2 else values[:, values.shape[1] // 2]
        _planes(axes, planes, limits)


def _planes(axes: "Axes", planes: np.ndarray, limits: tuple[float, float]) -> None:
    low, high = limits
    as_it_is: dict[str, Any] = {"interpolation": "nearest", "aspect": "auto"}
    if planes.shape[0] in (3, 4):
        colours = np.nan_to_num((planes - low) / (high - low)).clip(0, 1)
        axes.imshow(np.moveaxis(colours, 0, -1), **as_it_is)
    elif planes.shape[0] == 1:
        axes.imshow(planes[0], cmap="gray", vmin=low, vmax=high, **as_it_is)
    else:
        axes.imshow(_sheet(planes), cmap="viridis", vmin=low, vmax=high, **as_it_is)
        axes.set_xlabel(f"the first {min(_SHEET, planes.shape[0])} of {planes.shape[0]} channels", fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])


def _sheet(planes: np.ndarray) -> np.ndarray:
    """The first channels, (C, H, W), tiled into one plane with thin gaps between them."""
    shown = planes[:_SHEET].astype(np.float64)
    rows, columns = _grid(len(shown))
    gap = max(1, shown.shape[-1] // 40)
    height, width = shown.shape[1] + gap, shown.shape[2] + gap
    sheet = np.full((rows * height - gap, columns * width - gap), np.nan)
    for position, plane in enumerate(shown):
        top, left = position // columns * height, position % columns * width
        sheet[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return sheet


def _grid(count: int) -> tuple[int, int]:
    columns = math.ceil(math.sqrt(min(_SHEET, count)))
    return math.ceil(min(_SHEET, count) / columns), columns


def _bars(axes: "Axes", values: np.ndarray) -> None:
    """One bar a channel; three or four channels are a picture's and have its colours."""
    few = len(values) <= _BARS
    colours = {3: ["#d1495b", _GREEN, "#3f72af"], 4: ["#d1495b", _GREEN, "#3f72af", "#999999"]}
    bars = axes.bar(np.arange(len(values)), values, color=colours.get(len(values), _GREEN), width=0.8 if few else 1.0)
    if few:
        axes.bar_label(bars, fmt="%.3g" if len(values) < 5 else "%.2g", fontsize=8 if len(values) < 5 else 6, padding=2)
        axes.set_xlim(-1, len(values))
        axes.set_xticks(np.arange(len(values)), "RGBA"[: len(values)] if len(values) in colours else None)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.margins(y=0.12)
    axes.set_xlabel("channel", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _unbatched(panel: Panel) -> np.ndarray:
    """(C, *spatial) of the panel's first item, or the first feature vector; as float64."""
    values: np.ndarray = panel.values[0] if _is_batched(panel) else panel.values
    return values.astype(np.float64)


def _is_batched(panel: Panel) -> bool:
    return panel.values.ndim == panel.spatial_dims + 2


def _aspect(values: np.ndarray, spatial_dims: int) -> float:
    """Height over width of every panel: the input's, within reason."""
    if spatial_dims < 2:
        return 0.8
    rows, columns = (1, 1) if values.shape[0] in (3, 4) else _grid(values.shape[0])
    aspect: float = rows * values.shape[-2] / (columns * values.shape[-1])
    return min(2.0, max(0.4, aspect))


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if low < high else (low, low + 1)


def _title(panel: Panel) -> list[str]:
    """The lines over a panel: what it is, and its size before and after."""
    sizes = f"{_by(panel.before)} → {_by(panel.values.shape)}" if panel.before else _by(panel.values.shape)
    return [*textwrap.wrap(panel.title, 38), f"{sizes} (the first is shown)" if _is_batched(panel) else sizes]


def _by(shape: Sequence[int]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, shape))
