"""`poolservice-server backbone import`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from poolservice_server.backbones.command.table import print_line, print_table
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.installation import missing_packages
from poolservice_server.backbones.labels import LABEL_SETS
from poolservice_server.backbones.manifest_values import LARGEST_SIDE

# The parameters that the list of tensors depends on.
_OF_LIST = frozenset({"model", "input_size", "every"})


def import_(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="An ONNX file; a state dict (.pth, .safetensors) with --architecture; a folder with "
            "preprocessor_config.json and an ONNX file; or timm:NAME with --weights.",
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o", "--folder", help="The new folder. Without it, the possible outputs of an ONNX file are listed."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The backbone's name in requests. Default: the new folder's.")
    ] = None,
    description: Annotated[str, typer.Option(help="What it is, in one sentence.")] = "",
    licence: Annotated[str, typer.Option(help="The licence of its weights.")] = "",
    source: Annotated[str, typer.Option(help="Where it comes from.")] = "",
    output: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TENSOR",
            help="An output, repeatable; the first one is the default output. With torch weights, TENSOR is a module. "
            "Default: the feature map before the global pooling, and the network's own outputs.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help=f"The names of the classes: {' or '.join(LABEL_SETS)}, or a file with one on each line."),
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="The network of a state dict, such as mobilenet_v2.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The state dict of timm:NAME.")] = None,
    input_size: Annotated[
        str | None, typer.Option(metavar="H,W", help="The size of the network's input, if it accepts several.")
    ] = None,
    preprocessing: Annotated[
        str | None,
        typer.Option(
            help="The preprocessing of published weights: torchvision, torchvision-v2, timm, clip, "
            "inception, siglip, efficientnet-lite or unit (values from 0 to 1). The next flags change it.",
        ),
    ] = None,
    resize: Annotated[
        str | None, typer.Option(help="shortest: resize the shortest side to --size; squash: both; longest; none.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="SIDE|H,W", help="The size to which an image is resized.")] = None,
    crop_fraction: Annotated[
        float | None, typer.Option(help="The input's side in relation to --size, instead of --size. timm: crop_pct.")
    ] = None,
    rounding: Annotated[str | None, typer.Option(help="How the other side is rounded: floor, round or ceil.")] = None,
    filter: Annotated[
        str | None, typer.Option(help="nearest, box, bilinear, hamming, bicubic or lanczos. timm: interpolation.")
    ] = None,
    antialias: Annotated[
        bool | None, typer.Option(help="Whether downscaling averages all pixels, as Pillow does.")
    ] = None,
    crop: Annotated[str | None, typer.Option(help="center or none.")] = None,
    crop_rounding: Annotated[
        str | None, typer.Option(help="How half of the margin is rounded: round or floor.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Multiplies the values 0 to 255, such as 0.00392156862745098.")
    ] = None,
    mean: Annotated[str | None, typer.Option(metavar="R,G,B", help="Subtracted from the scaled values.")] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="Divides the values.")] = None,
    channel_order: Annotated[str | None, typer.Option(help="RGB, or BGR for networks of Caffe and OpenCV.")] = None,
    every: Annotated[bool, typer.Option("--all", help="List all tensors that can be outputs, without -o.")] = False,
) -> None:
    """Make a backbone's folder from a model file. Nothing is downloaded."""
    if problem := missing_packages():
        raise ImportFailed(problem)
    _check_flags(context, makes_folder=folder is not None)
    sizes = _sides("--input-size", input_size)
    image_size = (sizes[0], sizes[-1]) if sizes else None
    if folder is None:
        _list_tensors(model, image_size, every=every)
        return
    # The packages of the extra are imported only here, so that help needs none of them.
    from poolservice_server.backbones.command.import_report import print_imported
    from poolservice_server.backbones.importing.model_source import import_model
    from poolservice_server.backbones.importing.options import ImportOptions, read_labels_file
    from poolservice_server.backbones.importing.presets import PreprocessingFlags

    resized = _sides("--size", size)
    fields: dict[str, Any] = {
        "resize": resize,
        "size": None if resized is None else resized[0] if len(resized) == 1 else tuple(resized),
        "rounding": rounding,
        "filter": filter,
        "antialias": antialias,
        "crop": crop,
        "crop_rounding": crop_rounding,
        "scale": scale,
        "mean": _numbers("--mean", mean),
        "std": _numbers("--std", std),
    }
    options = ImportOptions(
        name=name or folder.absolute().name,
        description=description,
        licence=licence,
        source=source,
        outputs=tuple(output or ()),
        preprocessing=PreprocessingFlags(
            preset=preprocessing,
            crop_fraction=crop_fraction,
            channel_order=channel_order,
            fields={key: value for key, value in fields.items() if value is not None},
        ),
        labels=None if labels is None else read_labels_file(labels),
        image_size=image_size,
    )
    print_imported(import_model(model, folder, options, architecture=architecture, weights=weights))


def _check_flags(context: typer.Context, *, makes_folder: bool) -> None:
    """Refuse flags that would have no effect."""
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        if makes_folder and name == "every":
            raise ImportFailed("--all lists the tensors of a file, and -o makes a folder; leave one of them out")
        if not makes_folder and name not in _OF_LIST:
            raise ImportFailed(f"{parameter.opts[0]} is about a new folder; name the folder with -o DIR")


def _list_tensors(model: str, image_size: tuple[int, int] | None, *, every: bool) -> None:
    from poolservice_server.backbones.importing.linear_head import find_linear_head
    from poolservice_server.backbones.importing.model_source import read_graph
    from poolservice_server.backbones.importing.output_choice import candidates, default_tensor

    graph = read_graph(model, image_size)
    default = default_tensor(graph)
    head = find_linear_head(graph)
    rows = []
    for one in candidates(graph, every=every):
        marks = [
            *(["the default choice"] if one.tensor == default else []),
            *(["an output of the file"] if one.is_output else []),
            *(["the map of the linear head"] if head is not None and one.tensor == head.feature_map else []),
        ]
        sides = " x ".join(map(str, one.use.shape))
        rows.append((one.tensor, one.use.kind, sides, one.operator, ", ".join(marks)))
    channels, height, width = graph.input.shape
    print_line(f"input {graph.input.name}: {channels} x {height} x {width}")
    print_table(("tensor", "kind", "shape", "made by", ""), rows)
    typer.echo("\nmake a backbone with: -o DIR [--output NAME=TENSOR ...] --preprocessing NAME")


def _sides(flag: str, text: str | None) -> list[int] | None:
    numbers = _numbers(flag, text)
    if numbers is None:
        return None
    if len(numbers) > 2 or any(not 1 <= number <= LARGEST_SIDE or number % 1 for number in numbers):
        raise ImportFailed(
            f"{flag} must be one or two whole numbers from 1 to {LARGEST_SIDE}, such as 224 or 224,224; got {text}"
        )
    return [int(number) for number in numbers]


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ImportFailed(f"{flag} must be numbers with commas between them; got {text}") from None
