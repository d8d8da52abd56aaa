"""`poolservice map`: pool many files into one feature file."""

import csv
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from poolservice_client import PoolClient, RetryPolicy
from poolservice_client._cli import exit_errors, input_data, input_paths, map_job, operator_parser, shared_options
from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._cli.feature_file import FeatureFile
from poolservice_client._cli.journal import Journal
from poolservice_client._cli.message_text import escape
from poolservice_client._cli.operator_flags import FLAGS_HELP, Flags, Ops, takes_parameters
from poolservice_client._cli.pool_output import check_folder
from poolservice_client._cli.result_summary import ROWS_NOTE
from poolservice_client._request.query import ColorMode
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

#: The last paragraphs of `poolservice map --help`.
EPILOG = (
    "A run that ends early, by Ctrl-C or a crash, leaves FILE.partial beside FILE; run the same command to resume. "
    "Files whose size or modification time has changed since are pooled again. Rows of files that no longer exist are "
    "kept. If you add or leave out files, give --update.\n\n"
    "Files that fail are left out of the results.\n\n"
    "Exit statuses: 0 all files are done; 1 some files failed, or the service is unavailable; 2 the command line is "
    "wrong; 130 interrupted.\n\n"
    f"{FLAGS_HELP}\n\n"
    "For example: poolservice map 'photos/**/*.jpg' --op gap2d -o features.npz"
)

# The number of failures that are printed; --failures lists all of them.
_MAX_PRINTED_FAILURES = 10

# A busy server must not end a long run: every file is retried for about as long as its timeout.
_PATIENT_RETRIES = RetryPolicy(max_attempts=20, burst=1000)


@takes_parameters
def map_files(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILES", help="Images and .npy files: paths, or quoted patterns such as 'photos/**/*.jpg'."
        ),
    ] = None,
    *,
    op: Ops,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the results to an .npz, .npy (one operator; for memory mapping) or .parquet (needs pyarrow).",
        ),
    ],
    from_file: Annotated[
        list[Path] | None,
        typer.Option(metavar="LIST", help="Also read paths from this file, one per line; - is standard input."),
    ] = None,
    parameters: Flags,
    color_mode: shared_options.Colors = None,
    layout: shared_options.LayoutOption = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Keep the results' shapes instead of flat vectors.")
    ] = False,
    normalize: shared_options.Normalize = False,
    float16: shared_options.Float16 = False,
    failures: Annotated[
        Path | None, typer.Option(metavar="FILE", help="List the files that failed, with the reasons, as CSV.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start over; discard what an earlier run left.")] = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Resume with other files: pool only new and changed ones, and drop the rows of those that are not "
            "given or no longer exist.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only, and no progress bar.")] = False,
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
    if restart and update:
        raise UsageError("--restart discards what --update keeps; give one of them")
    parsed = operator_parser.parse(op, parameters)
    feature_file = FeatureFile.of(output, parsed, flat=not tensors)
    if failures is not None:
        check_folder(f"--failures {failures}", failures)
    paths = input_paths.find(files or (), from_file or ())
    feature_file.check_paths(paths)
    options: dict[str, Any] = {
        "output": "tensor" if tensors else "features",
        "normalize": normalize,
        "dtype": "float16" if float16 else None,
        "color_mode": cast(ColorMode | None, color_mode and color_mode.value),
        "layout": layout and layout.value,
    }
    job = {"operators": [repr(operator.spec) for operator in parsed], **options}
    started = time.monotonic()
    journal = Journal.open(feature_file.path, job, feature_file.names, paths, restart=restart, update=update)
    with closing(journal):
        done_before, work = journal.done, journal.work
        if not quiet:
            _report_resumed(journal)
        with PoolClient(
            address, timeout=timeout, max_message_bytes=max_message_bytes, retries=_PATIENT_RETRIES
        ) as client:
            map_job.run(
                client,
                [operator.spec for operator in parsed],
                options,
                journal,
                max_file_bytes=input_data.max_file_bytes(max_message_bytes),
                quiet=quiet,
            )
        folder, done = journal.ordered_rows()
        rows = [input_paths.printable(path) for path in done]
        failed = {
            input_paths.printable(path): journal.entries[path].reason
            for path in work.files
            if journal.entries[path].row is None
        }
        row_types = {name: str(column.row_type) for name, column in journal.columns.items()} if rows else {}
        # If all files failed, there is nothing to write.
        if rows:
            feature_file.write(folder, rows)
        _write_failures(failures, failed)
        journal.remove()
    total = len(work.files)
    _report_failures(failed, total, output, listed_in=failures)
    seconds = time.monotonic() - started
    if as_json:
        report = {
            "path": str(output) if rows else None,
            "rows": len(rows),
            "arrays": row_types,
            "done_before": done_before,
            "changed": [input_paths.printable(path) for path in work.changed],
            "vanished": [input_paths.printable(path) for path in work.vanished],
            "seconds": seconds,
            "failures": [{"path": path, "reason": reason} for path, reason in failed.items()],
        }
        typer.echo(json.dumps(report))
    elif rows and not quiet:
        arrays = ", ".join(f"{name} {row_type}" for name, row_type in row_types.items())
        rate = f"{len(work.pending) / seconds:,.0f} files/s"
        note = f"; {ROWS_NOTE}" if parsed[0].spec.spatial_dims == 1 and not all(map(_is_array, done)) else ""
        typer.echo(
            f"{len(rows):,} of {total:,} files -> {escape(str(output))}: {arrays} per file; {seconds:.1f} s, "
            f"{rate}{note}"
        )
    if failed:
        raise typer.Exit(exit_errors.FAILED)


def _report_resumed(journal: Journal) -> None:
    """Report what an earlier run has done, and what has happened to its files since."""
    work = journal.work
    if journal.done or work.changed:
        exit_errors.report(f"resuming: {journal.done:,} of {journal.total:,} files are already done")
    for paths, change in (
        (work.changed, "changed since they were pooled, and are pooled again"),
        (work.vanished, "no longer exist; their rows are kept, and --update drops them"),
    ):
        if paths:
            exit_errors.report(f"{len(paths):,} of the files {change}; the first is {paths[0]}")


def _is_array(path: str) -> bool:
    return path.lower().endswith(".npy")


def _write_failures(path: Path | None, failed: dict[str, str]) -> None:
    if path is None:
        return
    with exit_errors.naming(path), path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "reason"))
        rows.writerows(failed.items())


def _report_failures(failed: dict[str, str], total: int, output: Path, *, listed_in: Path | None) -> None:
    if not failed:
        return
    list_hint = f"; {listed_in} lists them" if listed_in else ""
    no_output = f", so {output} is not written" if len(failed) == total else ""
    exit_errors.report(f"{len(failed):,} of {total:,} files failed{no_output}{list_hint}")
    for path, reason in list(failed.items())[:_MAX_PRINTED_FAILURES]:
        exit_errors.print_line(f"  {path}: {reason}")
    if len(failed) > _MAX_PRINTED_FAILURES:
        more_hint = "" if listed_in else "; give --failures FILE to list them"
        exit_errors.print_line(f"  and {len(failed) - _MAX_PRINTED_FAILURES:,} more{more_hint}")
