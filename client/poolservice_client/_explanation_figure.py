"""The figure of an explanation: the image, and for each class its activation map over the image.

matplotlib is an optional dependency (`pip install matplotlib`). It is imported only when a figure is drawn.
"""

import math
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice_client._response.explanation import Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_PANEL_INCHES = 3.1
_DPI = 110
# The opacity of the highest value of a map. Where there is no evidence for a class, the image itself is visible.
_OPACITY = 0.75


def save(path: str | PathLike[str], pixels: np.ndarray, explanation: Explanation) -> None:
    """Draw the image and one panel for each class, and write them to `path`, in the format of its suffix.

    The colors of all panels have the same scale: from no evidence for the class, or evidence against it, to the
    highest value of any of the maps. The part of the image that the network did not see is dimmed.

    Args:
        path: the file; an existing one is replaced.
        pixels: the upright image or the tensor that was explained, (C, H, W) or (1, C, H, W).
        explanation: what `explain` returned, with maps.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: `path` cannot be written.
        ValueError: matplotlib does not support the format, or the explanation has no maps.
    """
    # Figure instead of pyplot: pyplot has global state and looks for a window system.
    from matplotlib.figure import Figure

    try:
        heatmaps = explanation.heatmaps()
    except InvalidRequest as error:
        raise ValueError(error.reason) from None
    shown = _as_shown(pixels[0] if pixels.ndim == 4 else pixels)
    highest = max(float(np.nanmax(heatmaps, initial=0.0)), float(np.finfo(np.float32).tiny))
    count = 1 + len(heatmaps)
    columns = min(_COLUMNS, count)
    rows = math.ceil(count / columns)
    aspect = min(2.0, max(0.4, shown.shape[0] / shown.shape[1]))
    figure = Figure(
        figsize=(_PANEL_INCHES * columns, (_PANEL_INCHES * aspect + 0.5) * rows), dpi=_DPI, layout="constrained"
    )
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in all_axes:
        axes.set_axis_off()
    _draw_image(all_axes[0], shown, "")
    for axes, heatmap, label, probability in zip(
        all_axes[1:], heatmaps, explanation.labels, explanation.probabilities, strict=False
    ):
        seen = ~np.isnan(heatmap)
        _draw_image(axes, np.where(seen[..., None], shown, shown * 0.4), f"{label}\n{probability:.1%}")
        opacity = np.sqrt(np.nan_to_num(heatmap).clip(0, highest) / highest) * _OPACITY
        axes.imshow(heatmap, cmap="inferno", vmin=0.0, vmax=highest, alpha=opacity)
    figure.savefig(path)


def _draw_image(axes: "Axes", shown: np.ndarray, title: str) -> None:
    axes.imshow(shown)
    # A dollar sign in a label does not begin a formula.
    axes.set_title(title, fontsize=9, parse_math=False)


def _as_shown(pixels: np.ndarray) -> np.ndarray:
    """Return the pixels as colors (H, W, 3) in [0, 1]; those of a tensor, which have any range, are stretched."""
    values: np.ndarray[Any, Any] = np.nan_to_num(pixels.astype(np.float32))
    if values.shape[0] not in (3, 4):
        values = np.repeat(values[:1], 3, axis=0)
    values = np.moveaxis(values[:3], 0, -1)
    low, high = float(values.min(initial=0.0)), float(values.max(initial=1.0))
    return np.asarray((values - low) / (high - low))
