"""A run of `poolservice map` or `poolservice embed`: many files become one feature file, and a report."""

import csv
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import typer

from poolservice_client import PoolClient, RetryPolicy
from poolservice_client._cli import backbone_choice, exit_errors, input_data, input_paths, map_job, operator_parser
from poolservice_client._cli.backbone_choice import WHOLE_OUTPUT, ChosenOutput
from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._cli.feature_file import FeatureFile
from poolservice_client._cli.journal import Journal
from poolservice_client._cli.message_text import escape
from poolservice_client._cli.operator_parser import Operator
from poolservice_client._cli.pool_output import check_folder
from poolservice_client._cli.result_summary import ROWS_NOTE

# The number of failures that are printed; --failures lists all of them.
_MAX_PRINTED_FAILURES = 10

# A busy server must not end a long run: every file is retried for about as long as its timeout.
_PATIENT_RETRIES = RetryPolicy(max_attempts=20, burst=1000)


class Connection(NamedTuple):
    """How the server is reached.

    Attributes:
        address: its address.
        timeout: seconds for each file.
        max_message_bytes: the largest message.
    """

    address: str
    timeout: float
    max_message_bytes: int


@dataclass(frozen=True)
class FeatureRun:
    """A run of the command.

    Attributes:
        output: the feature file.
        operators: the operators; None for features of a backbone: the mean of each channel of a feature map, and a
            vector as it is.
        options: the keywords of `client.map`, without `backbone` and `tap`.
        backbone: the backbone; None for none.
        tap: its output; None for the default one.
        files: paths and patterns.
        lists: files with one path per line.
        failures: the file that lists the failures; None for none.
        restart: whether to discard what an earlier run left.
        update: whether other files than those of an interrupted run may be given.
        quiet: whether to print errors only.
        as_json: whether to print JSON.
    """

    output: Path
    operators: Sequence[Operator] | None
    options: dict[str, Any]
    backbone: str | None
    tap: str | None
    files: Sequence[str]
    lists: Sequence[Path]
    failures: Path | None
    restart: bool
    update: bool
    quiet: bool
    as_json: bool

    def run(self, connection: Connection) -> None:
        """Pool the files, write the feature file and print the report.

        Raises:
            UsageError: the arguments do not fit each other, the files, or what an earlier run left.
            CommandError: the service or a file failed.
            PoolError: the backbone cannot be looked up.
            typer.Exit: some files failed, or the user pressed Ctrl-C.
        """
        if self.restart and self.update:
            raise UsageError("--restart discards what --update keeps; give one of them")
        # The columns of one operator have the same names whatever it is.
        named = [WHOLE_OUTPUT] if self.operators is None else self.operators
        file = FeatureFile.of(self.output, named, flat=self.options["output"] == "features")
        if self.failures is not None:
            check_folder(f"--failures {self.failures}", self.failures)
        paths = input_paths.find(self.files, self.lists)
        file.check_paths(paths)
        address, timeout, max_message_bytes = connection
        started = time.monotonic()
        with PoolClient(
            address, timeout=timeout, max_message_bytes=max_message_bytes, retries=_PATIENT_RETRIES
        ) as client:
            chosen = None if self.backbone is None else backbone_choice.find_output(client, self.backbone, self.tap)
            operators = _feature_operators(chosen) if self.operators is None else self.operators
            output = {"backbone": self.backbone, "tap": None if chosen is None else chosen.output.name}
            options = {**output, **self.options}
            fingerprint = None if chosen is None else chosen.backbone.fingerprint
            # If another command resumes the run, the error names the first of these that differs.
            layers = [one.layer for one in operators]
            job = {**output, "operators": layers, **self.options, "fingerprint": fingerprint}
            journal = Journal.open(file.path, job, file.names, paths, restart=self.restart, update=self.update)
            with closing(journal):
                done_before = journal.done
                if not self.quiet:
                    _report_resumed(journal)
                    if file.path.is_file():
                        exit_errors.report(f"{self.output} exists; it is replaced when all files are done")
                specs = operator_parser.specs_of(operators)
                max_file_bytes = input_data.max_file_bytes(max_message_bytes)
                map_job.run(
                    client, specs, options, journal, fingerprint, max_file_bytes=max_file_bytes, quiet=self.quiet
                )
                outcome = _complete(journal, file, self.failures)
        _report_failures(outcome.failed, journal.total, self.output, listed_in=self.failures)
        seconds = time.monotonic() - started
        if self.as_json:
            typer.echo(json.dumps(self._as_json(journal, outcome, done_before, seconds)))
        elif outcome.rows and not self.quiet:
            # The note is about images, which a 1-D operator pools row by row.
            one_dimensional = operators[0].spatial_dims == 1 and not all(map(_is_array, outcome.rows))
            self._print(journal, outcome, seconds, f"; {ROWS_NOTE}" if one_dimensional else "")
        if outcome.failed:
            raise typer.Exit(exit_errors.FAILED)

    def _as_json(self, journal: Journal, outcome: "_Outcome", done_before: int, seconds: float) -> dict[str, Any]:
        return {
            "path": str(self.output) if outcome.rows else None,
            "rows": len(outcome.rows),
            "arrays": outcome.row_types,
            "done_before": done_before,
            "changed": [input_paths.printable(path) for path in journal.work.changed],
            "vanished": [input_paths.printable(path) for path in journal.work.vanished],
            "seconds": seconds,
            "failures": [{"path": path, "reason": reason} for path, reason in outcome.failed.items()],
        }

    def _print(self, journal: Journal, outcome: "_Outcome", seconds: float, note: str) -> None:
        arrays = ", ".join(f"{name} {row_type}" for name, row_type in outcome.row_types.items())
        rate = f"{len(journal.work.pending) / seconds:,.0f} files/s"
        typer.echo(
            f"{len(outcome.rows):,} of {journal.total:,} files -> {escape(str(self.output))}: {arrays} per file; "
            f"{seconds:.1f} s, {rate}{note}"
        )


class _Outcome(NamedTuple):
    """The outcome of all files.

    Attributes:
        rows: the paths of the files that have a row.
        row_types: the type of the rows of each column; empty without rows.
        failed: the reason of each file that failed.
    """

    rows: list[str]
    row_types: dict[str, str]
    failed: dict[str, str]


def _feature_operators(chosen: ChosenOutput | None) -> list[Operator]:
    """Return the operators that make a vector of an output: the mean of each channel, or none for a vector."""
    if chosen is not None and chosen.output.kind == "VECTOR":
        return [WHOLE_OUTPUT]
    return operator_parser.parse(["gap2d"], {})


def _complete(journal: Journal, file: FeatureFile, failures: Path | None) -> _Outcome:
    """Write the feature file and the list of failures, and delete the journal."""
    folder, done = journal.ordered_rows()
    rows = [input_paths.printable(path) for path in done]
    row_types = {name: str(column.row_type) for name, column in journal.columns.items()} if rows else {}
    failed = {
        input_paths.printable(path): journal.entries[path].reason
        for path in journal.work.files
        if journal.entries[path].row is None
    }
    # If all files failed, there is nothing to write.
    if rows:
        file.write(folder, rows)
    _write_failures(failures, failed)
    journal.remove()
    return _Outcome(rows, row_types, failed)


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
