"""`poolservice gallery`: one sheet with every layer of a server, applied to one photograph."""

import asyncio
import io
import itertools
import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from poolservice_client import AdaptiveAvgPool2d, AsyncPoolClient
from poolservice_client._cli import backbone_choice, input_data, sdk_errors, shared_options
from poolservice_client._cli.exit_errors import CommandError, UsageError, naming
from poolservice_client._cli.gallery_run import Coverage, Shown, coverage, pool_all
from poolservice_client._cli.gallery_table import Sample
from poolservice_client._cli.message_text import escape
from poolservice_client._cli.pool_output import check_folder
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

#: The last paragraph of `poolservice gallery --help`.
EPILOG = "For example: poolservice gallery photo.jpg -o gallery.png"

# The longer side of the photograph that is pooled, in pixels.
_PHOTO_SIDE = 384
# The tag of the orientation in EXIF, and its values for photographs that are stored on their side.
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)
# The colors of the sheet, so that its file is small.
_COLORS = 256


def gallery(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A photograph; - reads standard input.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The sheet, a .png file.")],
    backbone: backbone_choice.Backbone = None,
    tap: backbone_choice.Tap = None,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    max_message_bytes: shared_options.MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    as_json: shared_options.AsJson = False,
) -> None:
    """Show all layers for one photograph.

    The photograph is reduced to at most 384 pixels per side. With --backbone, the layers pool the feature map that this
    network computes from the photograph. The sheet shows the layers for two dimensions. If a layer is not defined for
    the input, the sheet gives the server's reason.
    """
    backbone_choice.check(backbone, tap, None)
    if output.suffix.lower() != ".png":
        raise UsageError(f"-o {output}: the file's name must end in .png")
    check_folder(f"-o {output}", output)
    given = input_data.read(image, max_message_bytes)
    if not isinstance(given.payload, bytes):
        raise CommandError(f"{given.name}: a gallery needs an image; this is an array")
    with sdk_errors.translated_errors([], given.name, output):
        client = AsyncPoolClient(address, timeout=timeout, max_message_bytes=max_message_bytes)
        shown, covered, pixels = asyncio.run(_pool(client, given.name, given.payload, backbone, tap))
    title = Path(given.name).name + (f" by {backbone}" if backbone else "")
    _save(output, escape(title), pixels, shown, covered, colored=backbone is None)
    if as_json:
        typer.echo(json.dumps(_as_json(output, shown, covered)))
    else:
        refused = sum(one.values is None for one in shown)
        counts = (
            f"{len(shown) - refused} results of {len(covered.shown)} operators, {refused} not defined for the input"
        )
        typer.echo(escape(f"{counts} -> {output}"))


async def _pool(
    client: AsyncPoolClient, name: str, photo: bytes, backbone: str | None, tap: str | None
) -> tuple[list[Shown], Coverage, "np.ndarray[Any, Any]"]:
    """Return the results, their coverage, and the input of the layers, (C, H, W)."""
    async with client:
        info = await client.server_info()
        if backbone is None:
            pixels = await client.pool(photo, AdaptiveAvgPool2d(_reduced_size(name, photo)))
        else:
            pixels = await client.pool(photo, backbone=backbone, tap=tap)
            if pixels.ndim != 3:
                raise CommandError(f"--backbone {backbone}: this output is a vector; choose a feature map with --tap")
        channels, height, width = pixels.shape
        sample = Sample(channels, height, width, info.heads)
        covered = coverage(info)
        return await pool_all(client, pixels, sample, covered.shown), covered, pixels


def _reduced_size(name: str, photo: bytes) -> tuple[int, int]:
    """Return the height and width of the upright photograph, reduced to the size of the gallery.

    The size and the orientation alone come from Pillow. The server decodes the pixels that are pooled, as it does for
    every other command, and limits their number.

    Raises:
        CommandError: Pillow does not know the format, or the header is damaged.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(photo))
        with image:
            width, height = image.size
            if image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE:
                width, height = height, width
    # For damaged headers and EXIF data, Pillow raises exceptions of many types, such as OSError, SyntaxError and
    # struct.error. Their texts name Pillow's buffer instead of the file, so the message has the type alone.
    except Exception as error:
        raise CommandError(f"{name}: not an image that can be read: {type(error).__name__}") from error
    scale = min(1.0, _PHOTO_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _save(
    path: Path, title: str, pixels: "np.ndarray[Any, Any]", shown: list[Shown], covered: Coverage, *, colored: bool
) -> None:
    from poolservice_client._cli import gallery_sheet, gallery_tiles

    def result(caption: str, values: "np.ndarray[Any, Any]") -> gallery_sheet.Result:
        return gallery_sheet.Result(caption, gallery_tiles.draw(values, len(pixels), colored=colored))

    groups = [gallery_sheet.Group("Input", [result("the photograph" if colored else "the feature map", pixels)])]
    groups += [
        gallery_sheet.Group(
            heading,
            [
                gallery_sheet.Result(escape(one.caption), escape(one.reason))
                if one.values is None
                else result(escape(one.caption), one.values)
                for one in members
            ],
        )
        for heading, members in itertools.groupby(shown, lambda one: one.group)
    ]
    footers = [
        f"{label}: {', '.join(map(escape, names))}."
        for label, names in (
            ("This server does not have", covered.lacking),
            ("This client does not know", covered.unknown),
            ("Not for two dimensions", covered.other_dims),
        )
        if names
    ]
    sheet = gallery_sheet.draw(title, groups, footers).quantize(_COLORS)
    with naming(path):
        sheet.save(path, format="PNG", optimize=True)


def _as_json(path: Path, shown: list[Shown], covered: Coverage) -> dict[str, Any]:
    return {
        "figure": str(path),
        "layers": [
            {
                "group": one.group,
                "layer": one.caption,
                "shape": None if one.values is None else list(one.values.shape),
                "reason": one.reason or None,
            }
            for one in shown
        ],
        "operators": covered._asdict(),
    }
