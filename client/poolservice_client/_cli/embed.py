"""`poolservice embed`: the features of many images, by a backbone of the server."""

from typing import Annotated

import typer

from poolservice_client._cli import backbone_choice, feature_options, shared_options
from poolservice_client._cli.feature_run import Connection, FeatureRun
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

#: The last paragraphs of `poolservice embed --help`.
EPILOG = (
    "The feature of an image is the mean of each channel of the backbone's feature map (global average pooling), or "
    "the output itself if that is a vector. It is float32, and divided by its Euclidean norm, so that the product of "
    "two features is their cosine similarity. poolservice map --backbone has options for anything else.\n\n"
    f"{feature_options.RUNS_HELP}\n\n"
    "For example: poolservice embed 'photos/**/*.jpg' --backbone mobilenetv2 -o features.npz"
)


def embed(
    files: feature_options.Files = None,
    *,
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="NAME", help="The network of the server; poolservice info lists them.")
    ],
    tap: backbone_choice.Tap = None,
    output: feature_options.Output,
    from_file: feature_options.FromFile = None,
    failures: feature_options.Failures = None,
    restart: feature_options.Restart = False,
    update: feature_options.Update = False,
    quiet: feature_options.Quiet = False,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    max_message_bytes: shared_options.MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    as_json: shared_options.AsJson = False,
) -> None:
    """Write features of images to a file.

    The file has one row per image, and the paths of the images.
    """
    FeatureRun(
        output=output,
        operators=None,
        # All options of map, so that one of the commands never resumes a run of the other with other options.
        options={"output": "features", "normalize": True, "dtype": None, "color_mode": None, "layout": None},
        backbone=backbone,
        tap=tap,
        files=files or (),
        lists=from_file or (),
        failures=failures,
        restart=restart,
        update=update,
        quiet=quiet,
        as_json=as_json,
    ).run(Connection(address, timeout, max_message_bytes))
