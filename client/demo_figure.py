"""The figure of the demonstration with a real network."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from demo_backbone import Neighbor, Seen
from poolservice_client._figure import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_COLUMNS = 6
_INCHES = 2.1
_OPACITY = 0.7


def save(path: Path, pooled: Sequence[Panel], seen: Sequence[Seen], neighbors: Sequence[Neighbor]) -> None:
    """Draw three rows: a photograph and what pooling makes of it, class activation maps, and nearest neighbors.

    Args:
        path: the file; an existing one is replaced.
        pooled: the photograph and its pooled versions, images (C, H, W) in [0, 1].
        seen: classes that the network sees in photographs.
        neighbors: photographs, each with the most similar other one.
    """
    figure = Figure(figsize=(_INCHES * _COLUMNS, (_INCHES + 0.55) * 3), dpi=110, layout="constrained")
    rows: Any = figure.subfigures(3, 1)
    for panel, axes in zip(pooled, _row(rows[0], "Pooling: an image, and what layers make of it"), strict=False):
        axes.imshow(np.moveaxis(panel.values, 0, -1).clip(0, 1), aspect="equal")
        axes.set_title(panel.title, fontsize=8, parse_math=False)
    title = "Backbone: a class that MobileNetV2 sees, and where (class activation map)"
    for one, axes in zip(seen, _row(rows[1], title), strict=False):
        _draw_heatmap(axes, one)
    axes_of_row = _row(rows[2], "Features: photographs, and to the right of each the most similar other one")
    for index, pair in enumerate(neighbors[: _COLUMNS // 2]):
        left, right = axes_of_row[2 * index : 2 * index + 2]
        left.imshow(_square(pair.path))
        left.set_title(pair.path.stem, fontsize=8, parse_math=False)
        right.imshow(_square(pair.nearest))
        right.set_title(f"{pair.nearest.stem}: {pair.similarity:.2f}", fontsize=8, parse_math=False)
    figure.savefig(path)


def _row(row: "SubFigure", title: str) -> "list[Axes]":
    row.suptitle(title, fontsize=10, fontweight="bold")
    axes_of_row = list(row.subplots(1, _COLUMNS, squeeze=False)[0])
    for axes in axes_of_row:
        axes.set_axis_off()
        axes.set_anchor("N")
    return axes_of_row


def _draw_heatmap(axes: "Axes", seen: Seen) -> None:
    """Draw the evidence for the class over the photograph, as in `poolservice explain`."""
    side = min(seen.heatmap.shape)
    heatmap = _center(seen.heatmap, side)
    evidence = np.nan_to_num(heatmap).clip(0)
    strength = evidence / max(float(evidence.max()), 1e-12)
    axes.imshow(_center(_pixels(seen.path), side))
    axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=np.sqrt(strength) * _OPACITY)
    axes.set_title(f"{seen.label} {seen.probability:.0%}", fontsize=8, parse_math=False)


def _square(path: Path) -> np.ndarray:
    pixels = _pixels(path)
    return _center(pixels, min(pixels.shape[:2]))


def _center(pixels: np.ndarray, side: int) -> np.ndarray:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
