"""`poolservice map`: pool many files into one feature file."""

from typing import Annotated

import typer

from poolservice_client._cli import backbone_choice, feature_options, shared_options
from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._cli.feature_run import Connection, FeatureRun
from poolservice_client._cli.operator_flags import FLAGS_HELP, Flags, Ops, takes_parameters
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

#: The last paragraphs of `poolservice map --help`.
EPILOG = (
    f"{feature_options.RUNS_HELP}\n\n"
    f"{FLAGS_HELP}\n\n"
    "For example: poolservice map 'photos/**/*.jpg' --op gap2d -o features.npz"
)


@takes_parameters
def map_files(
    files: feature_options.Files = None,
    *,
    op: Ops = None,
    output: feature_options.Output,
    from_file: feature_options.FromFile = None,
    parameters: Flags,
    backbone: backbone_choice.Backbone = None,
    tap: backbone_choice.Tap = None,
    color_mode: shared_options.Colors = None,
    layout: shared_options.LayoutOption = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Keep the results' shapes instead of flat vectors.")
    ] = False,
    normalize: shared_options.Normalize = False,
    float16: shared_options.Float16 = False,
    failures: feature_options.Failures = None,
    restart: feature_options.Restart = False,
    update: feature_options.Update = False,
    quiet: feature_options.Quiet = False,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    max_message_bytes: shared_options.MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    as_json: shared_options.AsJson = False,
) -> None:
    """Pool files into one feature file.

    The file also has the paths of the files that its rows belong to.
    """
    if normalize and tensors:
        raise UsageError("--normalize is for feature vectors; leave --tensors out")
    backbone_choice.check(backbone, tap, color_mode)
    options = {
        "output": "tensor" if tensors else "features",
        "normalize": normalize,
        "dtype": "float16" if float16 else None,
        "color_mode": color_mode and color_mode.value,
        "layout": layout and layout.value,
    }
    FeatureRun(
        output=output,
        operators=backbone_choice.operators(op, parameters, backbone),
        options=options,
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
