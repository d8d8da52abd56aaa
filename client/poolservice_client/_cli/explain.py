"""`poolservice explain`: the classes that a backbone sees in an image, and where it sees them."""

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from poolservice_client import Explanation, PoolClient
from poolservice_client._cli import input_data, sdk_errors, shared_options
from poolservice_client._cli.exit_errors import CommandError, naming
from poolservice_client._cli.input_data import InputData
from poolservice_client._cli.message_text import escape
from poolservice_client._cli.pool_output import check_figure
from poolservice_client._cli.tables import Column, print_table
from poolservice_client._request.layout import Layout
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

#: The last paragraph of `poolservice explain --help`.
EPILOG = "For example: poolservice explain photo.jpg --backbone mobilenetv2 --top 3 -o explained.png"


def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image or an .npy file; - reads standard input.")],
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="NAME", help="A network with labels; poolservice info lists them.")
    ],
    top: Annotated[
        int, typer.Option(metavar="COUNT", min=0, max=100, help="The number of classes with the highest scores.")
    ] = 3,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="CLASS", help="Another class, by its index or its name. Repeat for more."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Draw where each class was seen, as .png, .pdf or .svg (needs matplotlib).",
        ),
    ] = None,
    layout: shared_options.LayoutOption = None,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    max_message_bytes: shared_options.MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    as_json: shared_options.AsJson = False,
) -> None:
    """Explain what a backbone sees.

    Print the classes with their scores. With -o, also draw class activation maps over the image: they show the parts
    that raise the score of a class.
    """
    if output is not None:
        check_figure("-o", output)
    given = input_data.read(image, max_message_bytes)
    with (
        sdk_errors.translated_errors([], given.name, output),
        PoolClient(address, timeout=timeout, max_message_bytes=max_message_bytes) as client,
    ):
        explanation = client.explain(
            given.payload,
            backbone=backbone,
            top=top,
            classes=[_class(one) for one in classes or ()],
            maps=output is not None,
            layout=cast(Layout | None, layout and layout.value),
        )
    if output is not None:
        _draw(output, given, explanation, channels_last=layout is shared_options.Layout.HWC)
    if as_json:
        typer.echo(json.dumps(_as_json(given, explanation, output), allow_nan=False))
    else:
        _print(explanation, output)


def _class(text: str) -> int | str:
    """Return the index or the name of a class. No index has more digits than this."""
    return int(text) if text.isdecimal() and len(text) <= 10 else text


def _draw(path: Path, given: InputData, explanation: Explanation, *, channels_last: bool) -> None:
    from poolservice_client import _explanation_figure

    pixels = given.to_array("RGB")
    if channels_last and not given.is_image:
        pixels = input_data.channels_first(pixels)
    try:
        with naming(path):
            _explanation_figure.save(path, pixels, explanation)
    except ValueError as error:
        raise CommandError(f"-o {path}: {error}") from None


def _as_json(given: InputData, explanation: Explanation, output: Path | None) -> dict[str, Any]:
    classes = [
        {"label": label, "index": int(index), "probability": float(probability), "logit": float(logit)}
        for label, index, probability, logit in _rows(explanation)
    ]
    return {
        "input": given.name,
        "classes": classes,
        "region": explanation.region._asdict(),
        "execution": explanation.execution._asdict(),
        "figure": output and str(output),
    }


def _print(explanation: Explanation, output: Path | None) -> None:
    print_table(
        (Column("class"), *(Column(heading, numeric=True) for heading in ("index", "probability", "logit"))),
        (
            (label, str(index), f"{probability:.4f}", f"{logit:.3f}")
            for label, index, probability, logit in _rows(explanation)
        ),
    )
    if output is not None:
        typer.echo(escape(f"class activation maps -> {output}"))


def _rows(explanation: Explanation) -> "zip[tuple[str, Any, Any, Any]]":
    return zip(explanation.labels, explanation.indices, explanation.probabilities, explanation.logits, strict=True)
