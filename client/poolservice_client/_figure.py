"""The before-and-after figure: the input and each result side by side, drawn with matplotlib.

Each result is stretched to the input's size, so that a value covers the area that it was pooled from. The ticks count
the result's own pixels.

matplotlib is an optional dependency (`pip install matplotlib`). It is imported only when a figure is drawn.
"""

import math
import textwrap
import warnings
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_PANEL_INCHES = 3.1
_DPI = 110
# A feature map with more channels than an image is shown as tiles of its first channels, at most this many.
_MAX_TILES = 16
# Up to this many bars have their values written above them.
_MAX_LABELED_BARS = 12
_RED, _GREEN, _BLUE, _GRAY = "#d1495b", "#4c9f70", "#3f72af", "#999999"


class Panel(NamedTuple):
    """One array of the figure.

    Attributes:
        title: the input's name, or the layer as it would be written.
        values: (C, *spatial) or (N, C, *spatial), of which the first is shown; or a feature vector, (D,) or (N, D).
        spatial_dims: the number of spatial dimensions; 0 for a feature vector.
        before: the shape of the pooled input; None for the input itself.
    """

    title: str
    values: np.ndarray
    spatial_dims: int
    before: tuple[int, ...] | None = None


def save(path: str | PathLike[str], panels: Sequence[Panel], *, limits: tuple[float, float] | None = None) -> None:
    """Draw `panels` in rows and write them to `path`, in the format of its suffix (.png, .pdf, .svg, ...).

    Args:
        path: the file; an existing one is replaced.
        panels: the input first, then the results.
        limits: the values that are shown darkest and brightest; (0, 1) for images. Default: the minimum and the maximum
            of the first panel, so that all panels can be compared.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: `path` cannot be written.
        ValueError: matplotlib does not support the format, or a panel has no values.
    """
    # Figure instead of pyplot: pyplot has global state and looks for a window system.
    from matplotlib.figure import Figure

    for panel in panels:
        if panel.values.size == 0:
            raise ValueError(f"{panel.title} is {_shape_text(panel.values.shape)}: there is nothing to draw")
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    first = _unbatched(panels[0])
    if limits is None:
        limits = _value_limits(first)
    aspect = _aspect(first, panels[0].spatial_dims)
    height = _PANEL_INCHES * aspect + 0.3 + 0.14 * max(len(_title_lines(panel)) for panel in panels)
    figure = Figure(figsize=(_PANEL_INCHES * columns, height * rows), dpi=_DPI, layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, axes in zip(panels, all_axes, strict=False):
        axes.set_box_aspect(aspect)
        _draw(axes, panel, limits)
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    with warnings.catch_warnings():
        # matplotlib's font lacks the characters of many languages, and draws a box for each.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(path)


def _draw(axes: "Axes", panel: Panel, limits: tuple[float, float]) -> None:
    values = _unbatched(panel)
    # A dollar sign in a file's name does not begin a formula.
    axes.set_title("\n".join(_title_lines(panel)), fontsize=9, parse_math=False)
    axes.tick_params(labelsize=7)
    if math.prod(values.shape[1:]) == 1:
        _draw_bars(axes, values.ravel())
    elif panel.spatial_dims == 1:
        axes.plot(values.T, linewidth=1)
        axes.margins(x=0)
    else:
        planes = values if panel.spatial_dims == 2 else values[:, _shown_slice(values)]
        _draw_planes(axes, planes, limits)


def _draw_planes(axes: "Axes", planes: np.ndarray, limits: tuple[float, float]) -> None:
    low, high = limits
    imshow_options: dict[str, Any] = {"interpolation": "nearest", "aspect": "auto"}
    if planes.shape[0] in (3, 4):
        colors = np.nan_to_num((planes - low) / (high - low)).clip(0, 1)
        axes.imshow(np.moveaxis(colors, 0, -1), **imshow_options)
    elif planes.shape[0] == 1:
        axes.imshow(planes[0], cmap="gray", vmin=low, vmax=high, **imshow_options)
    else:
        axes.imshow(_tile(planes), cmap="viridis", vmin=low, vmax=high, **imshow_options)
        axes.set_xlabel(f"the first {min(_MAX_TILES, planes.shape[0])} of {planes.shape[0]} channels", fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])


def _tile(planes: np.ndarray) -> np.ndarray:
    """Return the first channels of (C, H, W) as tiles of one plane, with thin gaps between them."""
    shown = planes[:_MAX_TILES].astype(np.float64)
    rows, columns = _grid(len(shown))
    gap = max(1, shown.shape[-1] // 40)
    height, width = shown.shape[1] + gap, shown.shape[2] + gap
    tiled = np.full((rows * height - gap, columns * width - gap), np.nan)
    for position, plane in enumerate(shown):
        top, left = position // columns * height, position % columns * width
        tiled[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return tiled


def _grid(count: int) -> tuple[int, int]:
    """Return the rows and columns of a grid for the tiles of `count` channels."""
    columns = math.ceil(math.sqrt(min(_MAX_TILES, count)))
    return math.ceil(min(_MAX_TILES, count) / columns), columns


def _draw_bars(axes: "Axes", values: np.ndarray) -> None:
    """Draw one bar per channel; three or four channels get an image's colors."""
    labeled = len(values) <= _MAX_LABELED_BARS
    colors = {3: [_RED, _GREEN, _BLUE], 4: [_RED, _GREEN, _BLUE, _GRAY]}
    width = 0.8 if labeled else 1.0
    bars = axes.bar(np.arange(len(values)), values, color=colors.get(len(values), _GREEN), width=width)
    if labeled:
        axes.bar_label(bars, fmt="%.3g" if len(values) < 5 else "%.2g", fontsize=8 if len(values) < 5 else 6, padding=2)
        axes.set_xlim(-1, len(values))
        axes.set_xticks(np.arange(len(values)), "RGBA"[: len(values)] if len(values) in colors else None)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.margins(y=0.12)
    axes.set_xlabel("channel", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _unbatched(panel: Panel) -> np.ndarray:
    """Return (C, *spatial) of the first sample, or the first feature vector, as float64."""
    values: np.ndarray = panel.values[0] if _is_batched(panel) else panel.values
    return values.astype(np.float64)


def _is_batched(panel: Panel) -> bool:
    return panel.values.ndim == panel.spatial_dims + 2


def _aspect(values: np.ndarray, spatial_dims: int) -> float:
    """Return the ratio of height to width for every panel: the input's, limited to 0.4 to 2."""
    if spatial_dims < 2:
        return 0.8
    rows, columns = (1, 1) if values.shape[0] in (3, 4) else _grid(values.shape[0])
    aspect: float = rows * values.shape[-2] / (columns * values.shape[-1])
    return min(2.0, max(0.4, aspect))


def _value_limits(values: np.ndarray) -> tuple[float, float]:
    """Return the minimum and maximum of the finite values, never equal."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if low < high else (low, low + 1)


def _title_lines(panel: Panel) -> list[str]:
    """Return the lines above a panel: its title, its size before and after pooling, and which part of it is shown."""
    after = _shape_text(panel.values.shape)
    lines = [*textwrap.wrap(panel.title, 38), f"{_shape_text(panel.before)} → {after}" if panel.before else after]
    parts = ["sample 1"] if _is_batched(panel) else []
    values = panel.values[0] if _is_batched(panel) else panel.values
    # The values of a volume of one element are drawn as bars.
    if panel.spatial_dims == 3 and math.prod(values.shape[1:]) > 1:
        parts.append(f"slice {_shown_slice(values) + 1} of {values.shape[1]}")
    return [*lines, f"shown: {', '.join(parts)}"] if parts else lines


def _shown_slice(values: np.ndarray) -> int:
    """Return the index of the slice that is shown of a volume (C, D, H, W): the middle one."""
    return int(values.shape[1]) // 2


def _shape_text(shape: Sequence[int]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, shape))
