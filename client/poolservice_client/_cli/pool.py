"""`poolservice pool`: one picture or array through one or several operators."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer

from poolservice_client import Execution, PoolClient
from poolservice_client._cli import error_messages, input_data, operators, shared_options
from poolservice_client._cli.errors import Failure, Usage
from poolservice_client._cli.input_data import Source
from poolservice_client._cli.operator_flags import Flags, Ops, takes_parameters
from poolservice_client._cli.operators import Operator
from poolservice_client._cli.results import Answer, Destination, check_folder, in_words
from poolservice_client._request.query import ColorMode
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

_FIGURE_SUFFIXES = (".png", ".pdf", ".svg")

#: What `poolservice pool --help` ends with.
EPILOG = f"""Operators, each in 1d, 2d and 3d: {", ".join(operators.FAMILIES)};
also gap and gmp for the global average and maximum, and the layers' own names, such as MaxPool2d.

Parameters of one operator alone follow its name: --op max2d:kernel_size=3x2,stride=1 --op gap2d

For example: poolservice pool photo.jpg --op max2d --op avg2d --kernel-size 8 --figure before-after.png"""


@takes_parameters
def pool(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A picture or an .npy file; - reads standard input.")],
    op: Ops,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Where the result goes: .png, .npy, or .npz for several. Several .png are numbered and named: "
            "out-1-max2d.png.",
        ),
    ] = None,
    *,
    parameters: Flags,
    color_mode: shared_options.Colors = None,
    features: Annotated[bool, typer.Option("--features", help="Flat feature vectors instead of tensors.")] = False,
    normalize: shared_options.Normalize = False,
    float16: shared_options.Float16 = False,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw before and after into a .png, .pdf or .svg (needs matplotlib)."),
    ] = None,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    max_message_bytes: shared_options.MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    as_json: shared_options.AsJson = False,
) -> None:
    """Pool a picture or an array.

    Without -o the result's shape, type and values are printed: all of them where they are few, else their range.
    """
    wanted = operators.read(op, parameters)
    destination = Destination.of(output, wanted) if output else None
    as_picture = destination is not None and destination.suffix == ".png"
    if normalize and not features:
        raise Usage("--normalize is for feature vectors; give --features too")
    if as_picture and (features or float16):
        raise Usage(f"-o {output}: a picture has neither --features nor --float16; write to an .npy or .npz file")
    if figure:
        _check_figure(figure)
    given = input_data.read(image)
    mode = cast(ColorMode | None, color_mode and color_mode.value)
    with (
        error_messages.refusals(wanted, given.name, output),
        PoolClient(address, timeout=timeout, max_message_bytes=max_message_bytes) as client,
    ):
        specs = [operator.spec for operator in wanted]
        if as_picture:
            pictures = client.pool_image(given.payload, specs, color_mode=mode)
            answers = [
                Answer(operator, input_data.planes(np.asarray(picture)), None, picture)
                for operator, picture in zip(wanted, pictures, strict=True)
            ]
            execution = None
        else:
            results, execution = client.pool(
                given.payload,
                specs,
                output="features" if features else "tensor",
                normalize=normalize,
                dtype="float16" if float16 else None,
                color_mode=mode,
                execution=True,
            )
            answers = [_answer(operator, result) for operator, result in zip(wanted, results, strict=True)]
    paths = destination.write(answers) if destination else None
    if figure:
        _draw(figure, given, answers, color_mode=mode or "RGB", features=features)
    if as_json:
        typer.echo(json.dumps(_as_json(given, answers, execution, paths, figure), allow_nan=False))
    else:
        _say(answers, execution, paths, figure)


def _answer(operator: Operator, result: Any) -> Answer:
    values, indices = result if isinstance(result, tuple) else (result, None)
    return Answer(operator, values, indices, None)


def _check_figure(path: Path) -> None:
    """See that it can be drawn before anything is sent."""
    if path.suffix.lower() not in _FIGURE_SUFFIXES:
        raise Usage(f"--figure {path}: the file's name must end in {in_words(_FIGURE_SUFFIXES)}")
    check_folder(f"--figure {path}", path)
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError:
        raise Failure("--figure needs matplotlib; install it with: pip install 'poolservice[figure]'") from None


def _draw(path: Path, given: Source, answers: Sequence[Answer], *, color_mode: str, features: bool) -> None:
    from poolservice_client import _figure

    before = given.array(color_mode)
    panels = [_figure.Panel(Path(given.name).name, before, answers[0].operator.spec.spatial_dims)]
    for answer in answers:
        # A picture that came back as such has its values in 0..255.
        values = answer.values if answer.picture is None else answer.values / np.float32(255)
        dims = 0 if features else answer.operator.spec.spatial_dims
        panels.append(_figure.Panel(repr(answer.operator.spec), values, dims, before.shape))
    try:
        _figure.save(path, panels, scale=(0.0, 1.0) if given.is_image else None)
    except ValueError as error:
        raise Failure(f"--figure {path}: {error}") from None


def _as_json(
    given: Source, answers: Sequence[Answer], execution: Execution | None, paths: list[Path] | None, figure: Path | None
) -> dict[str, Any]:
    results = [answer.as_json() for answer in answers]
    for result, path in zip(results, paths or (), strict=False):
        result["path"] = str(path)
    return {
        "input": given.name,
        "results": results,
        "execution": execution and execution._asdict(),
        "figure": figure and str(figure),
    }


def _say(answers: Sequence[Answer], execution: Execution | None, paths: list[Path] | None, figure: Path | None) -> None:
    specs = [repr(answer.operator.spec) for answer in answers]
    kinds = [f"{answer.shape} {answer.values.dtype.name}" for answer in answers]
    for number, answer in enumerate(answers):
        spec, kind = specs[number].ljust(max(map(len, specs))), kinds[number].ljust(max(map(len, kinds)))
        arrow = f"  -> {paths[number]}" if paths else ""
        typer.echo(f"{spec}  {kind}  {answer.in_words()}{arrow}")
    if figure:
        typer.echo(f"before and after -> {figure}")
    if execution:
        typer.echo(
            f"on {execution.device} in a batch of {execution.batch_size}: decoded in "
            f"{execution.decode_microseconds / 1000:.1f} ms, waited {execution.queue_microseconds / 1000:.1f} ms, "
            f"computed in {execution.compute_microseconds / 1000:.1f} ms"
        )
