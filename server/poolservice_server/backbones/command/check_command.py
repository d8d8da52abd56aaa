"""`poolservice-server backbone check`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from poolservice_server.backbones.command.errors import CheckFailed
from poolservice_server.backbones.command.preprocessing_text import preprocessing_text
from poolservice_server.backbones.command.table import print_line, print_table
from poolservice_server.backbones.counted import counted
from poolservice_server.backbones.engines.engine import EngineError, listed
from poolservice_server.backbones.folder import BackboneFolder, BrokenFolder, read_folder
from poolservice_server.backbones.folder_files import backbones_instead_of
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.installation import missing_packages


def check(
    folder: Annotated[Path, typer.Argument(help="A backbone's folder.")],
    allow_code_models: Annotated[
        bool,
        typer.Option("--allow-code-models", help="Also run a model that can run any code, such as a .pt2 program."),
    ] = False,
) -> None:
    """Verify a backbone's folder, run a built-in image with each engine, and compare and measure the engines."""
    if problem := missing_packages():
        raise ImportFailed(problem)
    backbone = _read(folder, allow_code_models=allow_code_models)
    # torch, which these import, takes seconds.
    from poolservice_server.backbones.engines.loading import CannotRun
    from poolservice_server.backbones.importing import folder_check
    from poolservice_server.backbones.importing.network_run import MAX_DIFFERENCE

    try:
        runs = folder_check.run_engines(backbone, allow_code_models=allow_code_models)
    except CannotRun as error:
        raise CheckFailed(str(error)) from None
    except EngineError as error:
        raise CheckFailed(f"{folder}: {error}") from None
    for run in runs:
        _check_numbers(folder, run.engine, run.outputs)
    first, *others = runs
    differences = [(run.engine, *folder_check.largest_difference(run, first)) for run in others]
    for engine, difference, output in differences:
        if not difference <= MAX_DIFFERENCE:
            raise CheckFailed(
                f"{folder}: {engine} and {first.engine} give different results for {output}, by {difference:.1e} of "
                f"the largest value; at most {MAX_DIFFERENCE} is accepted"
            )
    _print_description(backbone)
    left, top, right, bottom = folder_check.region_of_image(backbone)
    print_line(f"region of a 640x480 image: {left:g},{top:g} to {right:g},{bottom:g}")
    _print_outputs(backbone, first.outputs)
    for run in runs:
        print_line(f"{run.engine}: {run.images_per_second:.1f} images per second with {counted(run.threads, 'thread')}")
    for engine, difference, output in differences:
        print_line(f"{engine} differs from {first.engine} by {difference:.1e} of the largest value, in {output}")


def _read(folder: Path, *, allow_code_models: bool) -> BackboneFolder:
    try:
        return read_folder(folder, allow_code_models=allow_code_models)
    except BrokenFolder as error:
        if found := backbones_instead_of(folder):
            raise CheckFailed(f"{error}; check one of {listed([str(one) for one in found], 5)}") from None
        raise


def _print_description(backbone: BackboneFolder) -> None:
    manifest = backbone.manifest
    print_line(f"{manifest.name}: {manifest.description or 'no description'}")
    print_line(f"licence: {manifest.licence}; source: {manifest.source}")
    print_line(f"fingerprint: {backbone.fingerprint}")
    print_line(f"input: {manifest.input.channels} x {manifest.input.height} x {manifest.input.width}")
    print_line(f"preprocessing: {preprocessing_text(manifest.input, manifest.preprocessing)}")
    if manifest.head is not None:
        print_line(f"head: {counted(len(backbone.labels), 'class')} of the mean of {manifest.head.output}")


def _print_outputs(backbone: BackboneFolder, outputs: Mapping[str, np.ndarray]) -> None:
    rows = []
    for name, values in outputs.items():
        kind = backbone.manifest.outputs[name].kind
        default = "the default" if name == backbone.manifest.default_output else ""
        shape = " x ".join(map(str, values.shape[1:]))
        rows.append((name, kind, shape, f"{values.min():.4g}", f"{values.mean():.4g}", f"{values.max():.4g}", default))
    print_table(("output", "kind", "shape", "minimum", "mean", "maximum", ""), rows)


def _check_numbers(folder: Path, engine: str, outputs: Mapping[str, np.ndarray]) -> None:
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise CheckFailed(f"{folder}: {engine} gives values that are no numbers for {name}")
