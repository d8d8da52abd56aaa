"""`poolservice map`: many files through one or several operators, into one file of results."""

import csv
import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from numpy.typing import NDArray

from poolservice_client import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PoolClient,
    PoolError,
    Unauthenticated,
    Unavailable,
)
from poolservice_client._cli import error_messages, errors, input_data, input_files, operators, shared_options
from poolservice_client._cli.errors import Failure, Usage
from poolservice_client._cli.feature_file import FeatureFile
from poolservice_client._cli.journal import Journal
from poolservice_client._cli.operator_flags import Flags, Ops, takes_parameters
from poolservice_client._cli.results import check_folder
from poolservice_client._request import files
from poolservice_client._request.query import ColorMode
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

#: What `poolservice map --help` ends with.
EPILOG = (
    "A run that was ended, by Ctrl-C or by a crash, leaves FILE.partial beside FILE; the same command goes on from "
    "there. Files that fail are left out of the results.\n\n"
    "Exit statuses: 0 all files are done; 1 some failed, or the service went away; 2 the command was written wrongly; "
    "130 interrupted.\n\n"
    "For example: poolservice map 'photos/**/*.jpg' --op gap2d -o features.npz"
)

# More of them are counted, and listed where --failures says.
_SHOWN = 10


@takes_parameters
def map_files(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILES", help="Pictures and .npy files: paths, or quoted patterns such as 'photos/**/*.jpg'."
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
            help="Where the results go: .npz, .npy (to be memory-mapped, one operator) or .parquet (needs pyarrow).",
        ),
    ],
    from_file: Annotated[
        list[Path] | None,
        typer.Option(metavar="LIST", help="Take paths from this file too, one a line; - is standard input."),
    ] = None,
    parameters: Flags,
    color_mode: shared_options.Colors = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Keep the results' shapes, instead of flat vectors.")
    ] = False,
    normalize: shared_options.Normalize = False,
    float16: shared_options.Float16 = False,
    failures: Annotated[
        Path | None, typer.Option(metavar="FILE", help="List the files that failed and why, as CSV.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin again, whatever an ended run has left.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, and no word of what is done.")] = False,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    max_message_bytes: shared_options.MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    as_json: shared_options.AsJson = False,
) -> None:
    """Pool many files into one file of features, with the files' paths beside them."""
    wanted = operators.read(op, parameters)
    if normalize and tensors:
        raise Usage("--normalize is for feature vectors; leave --tensors out")
    file = FeatureFile.of(output, wanted, flat=not tensors)
    if failures is not None:
        check_folder(f"--failures {failures}", failures)
    paths = input_files.find(files or (), from_file or ())
    if file.suffix == ".npy" and (broken := next((path for path in paths if "\n" in path), None)):
        raise Usage(f"-o {output}: the list of paths has one a line, and {broken!r} has two; write an .npz file")
    asked: dict[str, Any] = {
        "output": "tensor" if tensors else "features",
        "normalize": normalize,
        "dtype": "float16" if float16 else None,
        "color_mode": cast(ColorMode | None, color_mode and color_mode.value),
    }
    job = {"operators": [repr(operator.spec) for operator in wanted], **asked}
    started = time.monotonic()
    journal = Journal.open(output, job, file.names, paths, restart=restart)
    with closing(journal):
        before = journal.done
        if before and not quiet:
            errors.say(f"{before:,} of {len(paths):,} files were done before; going on")
        with PoolClient(address, timeout=timeout, max_message_bytes=max_message_bytes) as client:
            specs = [operator.spec for operator in wanted]
            _run(client, specs, asked, paths, journal, quiet=quiet)
        failed = {input_files.readable(paths[index]): reason for index, reason in journal.failures.items()}
        named = [input_files.readable(path) for index, path in enumerate(paths) if index not in journal.failures]
        kinds = {name: str(column.kind) for name, column in journal.columns.items()}
        # Of failures alone there is no file to make.
        if named:
            file.write(journal.folder, named)
        if failures is not None:
            _list(failures, failed)
        journal.remove()
    _say_failures(failed, len(paths), output, listed=failures)
    seconds = time.monotonic() - started
    if as_json:
        said = {
            "path": str(output) if named else None,
            "rows": len(named),
            "arrays": kinds,
            "done_before": before,
            "seconds": seconds,
            "failures": [{"path": path, "reason": reason} for path, reason in failed.items()],
        }
        typer.echo(json.dumps(said))
    elif named and not quiet:
        what = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        rate = f"{(len(paths) - before) / seconds:,.0f} files/s"
        typer.echo(f"{len(named):,} of {len(paths):,} files -> {output}: {what} each; {seconds:.1f} s, {rate}")
    if failed:
        raise typer.Exit(errors.FAILED)


def _run(
    client: PoolClient,
    specs: Sequence[Any],
    asked: dict[str, Any],
    paths: Sequence[str],
    journal: Journal,
    *,
    quiet: bool,
) -> None:
    """Do what is not done yet, and bring it to the disk.

    Raises:
        Failure: the service went away, or does not let this caller in.
        typer.Exit: interrupted.
    """
    feed = _Feed(paths[journal.done :])
    again = f"the same command goes on; what is done is kept in {journal.folder}"
    results = client.map(feed, specs, items=True, **asked)
    try:
        with _bar(journal, quiet=quiet) as tell, closing(results):
            for item in results:
                _settle(journal, feed)
                if item.error is not None and (gone := _service_gone(client, item.error)):
                    journal.checkpoint()
                    raise Failure(
                        f"{error_messages.sentence(gone)}; {journal.kept:,} of {journal.total:,} files are done; {again}"
                    )
                if item.error is not None:
                    journal.fail(_reason(item.error, paths[journal.done]))
                else:
                    journal.row(dict(zip(journal.names, _arrays(item.result), strict=True)))
                tell()
            _settle(journal, feed)
        journal.checkpoint()
    except KeyboardInterrupt:
        # What is on the disk stays as it is: this may have come in the middle of anything.
        errors.say(f"interrupted; {journal.kept:,} of {journal.total:,} files are done; {again}")
        raise typer.Exit(errors.INTERRUPTED) from None


def _service_gone(client: PoolClient, error: PoolError) -> PoolError | None:
    """The error itself or another one, where it is no fault of the file and all that follow would fail with it."""
    if isinstance(error, Unavailable | Unauthenticated | Overloaded):
        return error
    if isinstance(error, DeadlineExceeded):
        # A file that takes too long, or a service that is not there any more.
        try:
            client.health(timeout=shared_options.HEALTH_TIMEOUT)
        except PoolError as gone:
            return gone
    return None


class _Feed:
    """Gives what `map` sends for each file, in order; a file that gives nothing is remembered with its reason.

    Attributes:
        read: for each file that was read and is not accounted for yet, why it was not sent; None where it was.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.read: deque[str | None] = deque()
        self._paths = paths

    def __iter__(self) -> Iterator[str | NDArray[Any] | bytes]:
        for path in self._paths:
            if not path.lower().endswith(".npy"):
                # A picture, which the map's own threads read.
                self.read.append(None)
                yield path
                continue
            try:
                payload = input_data.of_bytes(files.read(path))
            except OSError as error:
                self.read.append(error.strerror or str(error))
            except InvalidRequest as error:
                self.read.append(error.reason)
            else:
                self.read.append(None)
                yield payload


def _settle(journal: Journal, feed: _Feed) -> None:
    """Account for the files that were not sent before the next one that was."""
    while feed.read and (reason := feed.read.popleft()) is not None:
        journal.fail(reason)


def _reason(error: PoolError, path: str) -> str:
    """What is said beside the path, which the SDK says too."""
    if isinstance(error, InvalidRequest):
        return error_messages.reason(error).removeprefix(f"{path}: ")
    return error_messages.sentence(error)


def _arrays(results: Sequence[Any]) -> Iterator[NDArray[Any]]:
    """One operator's after another: its values, and its indices where those were asked for."""
    for result in results:
        if isinstance(result, tuple):
            yield from result
        else:
            yield result


@contextmanager
def _bar(journal: Journal, *, quiet: bool) -> Iterator[Any]:
    """What is to be told after each file, and a bar on stderr where that is a terminal and nobody wants it quiet."""
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    # Only who watches pays for rich.
    from poolservice_client._map.progress import Progress

    progress = Progress(journal.total, done=journal.done, failures=len(journal.failures))
    progress.start()

    def tell() -> None:
        progress.show(journal.done, len(journal.failures))

    try:
        yield tell
    finally:
        tell()
        progress.stop()


def _list(path: Path, failed: dict[str, str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "reason"))
        rows.writerows(failed.items())


def _say_failures(failed: dict[str, str], total: int, output: Path, *, listed: Path | None) -> None:
    if not failed:
        return
    where = f"; {listed} lists them" if listed else ""
    nothing = f", so {output} is not written" if len(failed) == total else ""
    errors.say(f"{len(failed):,} of {total:,} files failed{nothing}{where}")
    for path, reason in list(failed.items())[:_SHOWN]:
        typer.echo(f"  {path}: {reason}", err=True)
    if len(failed) > _SHOWN:
        more = "" if listed else "; give --failures FILE to have them listed"
        typer.echo(f"  and {len(failed) - _SHOWN:,} more{more}", err=True)
