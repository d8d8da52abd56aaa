"""`poolservice pool`: pool one image or array with one or several operators."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import typer
from numpy.typing import NDArray

from poolservice_client import Execution, PoolClient
from poolservice_client._cli import (
    backbone_choice,
    input_data,
    operator_names,
    operator_parser,
    sdk_errors,
    shared_options,
)
from poolservice_client._cli.exit_errors import CommandError, UsageError, naming
from poolservice_client._cli.input_data import InputData
from poolservice_client._cli.message_text import escape
from poolservice_client._cli.operator_flags import FLAGS_HELP, Flags, Ops, takes_parameters
from poolservice_client._cli.operator_parser import Operator
from poolservice_client._cli.pool_output import OutputFile, check_figure
from poolservice_client._cli.result_summary import ROWS_NOTE, Result
from poolservice_client._request.layout import Layout
from poolservice_client._request.options import ColorMode
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

#: The last paragraphs of `poolservice pool --help`.
EPILOG = f"""{operator_names.overview()}
gap and gmp are short for the global average and maximum. torch's names, such as MaxPool2d and max_pool2d, work too.

{FLAGS_HELP}

For example: poolservice pool photo.jpg --op max2d --op avg2d --kernel-size 8 --figure before-after.png"""


class _Report(NamedTuple):
    """All that the command prints.

    Attributes:
        given: the input.
        results: one result for each operator.
        execution: the response's Execution; None for images.
        paths: the file that holds each result; None without -o.
        figure: the figure's path; None without --figure.
    """

    given: InputData
    results: Sequence[Result]
    execution: Execution | None
    paths: Sequence[Path] | None
    figure: Path | None


@takes_parameters
def pool(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image or an .npy file; - reads standard input.")],
    op: Ops = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the result to a .png, .npy, or .npz (several results). Several .png files are numbered and "
            "named: out-1-max2d.png.",
        ),
    ] = None,
    *,
    parameters: Flags,
    backbone: backbone_choice.Backbone = None,
    tap: backbone_choice.Tap = None,
    color_mode: shared_options.Colors = None,
    layout: shared_options.LayoutOption = None,
    features: Annotated[bool, typer.Option("--features", help="Request flat feature vectors, not tensors.")] = False,
    normalize: shared_options.Normalize = False,
    float16: shared_options.Float16 = False,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the input and the results as .png, .pdf or .svg (needs matplotlib)."),
    ] = None,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    max_message_bytes: shared_options.MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    as_json: shared_options.AsJson = False,
) -> None:
    """Pool an image or an array.

    Print each result's shape, dtype and values; of more than 16 values, the minimum, mean and maximum.
    """
    backbone_choice.check(backbone, tap, color_mode)
    parsed = backbone_choice.operators(op, parameters, backbone)
    output_file = OutputFile.of(output, parsed) if output else None
    as_image = output_file is not None and output_file.suffix == ".png"
    if normalize and not features:
        raise UsageError("--normalize is for feature vectors; give --features too")
    if as_image and (features or float16):
        raise UsageError(f"-o {output}: --features and --float16 do not apply to an image; write an .npy or .npz file")
    if as_image and backbone is not None:
        raise UsageError(f"-o {output}: a backbone returns no image; write an .npy or .npz file")
    if figure:
        check_figure("--figure", figure)
    given = input_data.read(image, max_message_bytes)
    mode = cast(ColorMode | None, color_mode and color_mode.value)
    channels = cast(Layout | None, layout and layout.value)
    with (
        sdk_errors.translated_errors(parsed, given.name, output),
        PoolClient(address, timeout=timeout, max_message_bytes=max_message_bytes) as client,
    ):
        if as_image:
            results, execution = _pool_images(client, given, parsed, mode, channels), None
        else:
            options = {
                "output": "features" if features else "tensor",
                "normalize": normalize,
                "dtype": "float16" if float16 else None,
                "color_mode": mode,
                "layout": channels,
                "backbone": backbone,
                "tap": tap,
            }
            results, execution = _pool_tensors(client, given, parsed, options)
    paths = output_file.write(results) if output_file else None
    if figure:
        before = given.to_array(mode or "RGB")
        if channels == "HWC" and not given.is_image:
            before = input_data.channels_first(before)
        _draw(figure, given, results, before, features=features)
    report = _Report(given, results, execution, paths, figure)
    if as_json:
        typer.echo(json.dumps(_as_json(report), allow_nan=False))
    else:
        _print(report)


def _pool_images(
    client: PoolClient, given: InputData, parsed: Sequence[Operator], mode: ColorMode | None, layout: Layout | None
) -> list[Result]:
    images = client.pool_image(given.payload, operator_parser.specs_of(parsed), color_mode=mode, layout=layout)
    return [
        Result(operator, input_data.channels_first(np.asarray(image)), None, image)
        for operator, image in zip(parsed, images, strict=True)
    ]


def _pool_tensors(
    client: PoolClient, given: InputData, parsed: Sequence[Operator], options: dict[str, Any]
) -> tuple[list[Result], Execution]:
    pooled, execution = client.pool(given.payload, operator_parser.specs_of(parsed), execution=True, **options)
    results = []
    for operator, result in zip(parsed, pooled, strict=True):
        values, indices = result if isinstance(result, tuple) else (result, None)
        results.append(Result(operator, values, indices, None))
    return results, execution


def _draw(path: Path, given: InputData, results: Sequence[Result], before: NDArray[Any], *, features: bool) -> None:
    from poolservice_client import _figure

    panels = [_figure.Panel(escape(Path(given.name).name), before, results[0].operator.spatial_dims)]
    for result in results:
        # A pooled image has values in 0..255, the input's panel in [0, 1].
        values = result.values if result.image is None else result.values / np.float32(255)
        dims = 0 if features or values.ndim < 2 else result.operator.spatial_dims
        panels.append(_figure.Panel(result.operator.layer, values, dims, before.shape))
    try:
        with naming(path):
            _figure.save(path, panels, limits=(0.0, 1.0) if given.is_image else None)
    except ValueError as error:
        raise CommandError(f"--figure {path}: {error}") from None


def _as_json(report: _Report) -> dict[str, Any]:
    results = [result.as_json() for result in report.results]
    for result, path in zip(results, report.paths or (), strict=False):
        result["path"] = str(path)
    return {
        "input": report.given.name,
        "results": results,
        "execution": report.execution and report.execution._asdict(),
        "figure": report.figure and str(report.figure),
    }


def _print(report: _Report) -> None:
    summaries = [result.summaries() for result in report.results]
    name_width, type_width = (max(len(line[column]) for lines in summaries for line in lines) for column in (0, 1))
    for number, (result, lines) in enumerate(zip(report.results, summaries, strict=True)):
        note = f"; {ROWS_NOTE}" if report.given.is_image and result.operator.spatial_dims == 1 else ""
        arrow = f"  -> {report.paths[number]}" if report.paths else ""
        for name, array_type, summary in lines:
            typer.echo(escape(f"{name.ljust(name_width)}  {array_type.ljust(type_width)}  {summary}{note}{arrow}"))
    if report.figure:
        typer.echo(escape(f"before and after -> {report.figure}"))
    if execution := report.execution:
        typer.echo(
            f"on {escape(execution.device)} in a batch of {execution.batch_size}: decoded in "
            f"{execution.decode_microseconds / 1000:.1f} ms, queued {execution.queue_microseconds / 1000:.1f} ms, "
            f"computed in {execution.compute_microseconds / 1000:.1f} ms"
        )
        if execution.backbone_fingerprint:
            typer.echo(
                f"the backbone with the fingerprint {escape(execution.backbone_fingerprint)}: preprocessed in "
                f"{execution.preprocess_microseconds / 1000:.1f} ms, run in "
                f"{execution.backbone_microseconds / 1000:.1f} ms"
            )
