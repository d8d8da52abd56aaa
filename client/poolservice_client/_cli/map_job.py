"""One run of `poolservice map`: sends the files and records each result in the journal."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

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
from poolservice_client._cli import exit_errors, input_data, sdk_errors, shared_options
from poolservice_client._cli.exit_errors import CommandError
from poolservice_client._cli.input_files import Stamp, stamp_of
from poolservice_client._cli.journal import Journal


def run(
    client: PoolClient,
    specs: Sequence[Any],
    options: dict[str, Any],
    journal: Journal,
    fingerprint: str | None,
    *,
    max_file_bytes: int,
    quiet: bool,
) -> None:
    """Pool the files that are not done yet and write the results to the journal.

    Args:
        client: makes the calls.
        specs: how to pool.
        options: the keywords of `client.map`.
        journal: the files, and their results.
        fingerprint: that of the backbone that makes all rows; None without a backbone.
        max_file_bytes: the size of the largest file that is sent.
        quiet: whether to show no progress bar.

    Raises:
        CommandError: the service is unavailable, rejects the caller or has another backbone than before, or the journal
            cannot be written; it has the finished files.
        typer.Exit: the user pressed Ctrl-C.
    """
    inputs = _Inputs(journal.work.pending, max_file_bytes)
    resume_hint = f"run the same command to resume; finished rows are in {journal.folder}"
    items = client.map(inputs, specs, items=True, **options)
    try:
        with _progress_bar(journal, quiet=quiet) as update_bar, closing(items):
            for item in items:
                path, stamp = _next_sent(journal, inputs)
                if item.error is not None and (service_error := _service_error(client, item.error)):
                    journal.checkpoint()
                    raise CommandError(
                        f"{sdk_errors.describe(service_error)}; {journal.saved:,} of {journal.total:,} files are "
                        f"done; {resume_hint}"
                    )
                if item.execution is not None and fingerprint not in (None, item.execution.backbone_fingerprint):
                    journal.checkpoint()
                    raise CommandError(
                        f"the server's backbone {options['backbone']} has changed: its fingerprint was {fingerprint} "
                        f"and is now {item.execution.backbone_fingerprint}, and features of both cannot be compared; "
                        f"{journal.saved:,} of {journal.total:,} files are done, in {journal.folder}"
                    )
                if item.error is not None:
                    journal.add_failure(path, stamp, _reason(item.error, path))
                else:
                    journal.add_row(path, stamp, dict(zip(journal.names, _arrays(item.result), strict=True)))
                update_bar()
            while inputs.read:
                _record_unreadable(journal, inputs.read.popleft())
        journal.checkpoint()
    except OSError as error:
        raise CommandError(
            f"{sdk_errors.describe_os_error(error)}; {journal.saved:,} of {journal.total:,} files are done; "
            f"{resume_hint}"
        ) from None
    except KeyboardInterrupt:
        # No checkpoint here: the interrupt may have stopped one halfway.
        exit_errors.report(f"interrupted; {journal.saved:,} of {journal.total:,} files are done; {resume_hint}")
        raise typer.Exit(exit_errors.INTERRUPTED) from None


def _service_error(client: PoolClient, error: PoolError) -> PoolError | None:
    """Return the error of the service that would also fail all further files; None if only this file failed."""
    if isinstance(error, Unavailable | Unauthenticated | Overloaded):
        return error
    if isinstance(error, InvalidRequest) and error.field in ("backbone", "tap"):
        # The server had it when the run began, so it was restarted without it.
        return error
    if isinstance(error, DeadlineExceeded):
        # Either this file takes too long, or the service no longer responds.
        try:
            client.health(timeout=shared_options.HEALTH_TIMEOUT)
        except PoolError as health_error:
            return health_error
    return None


class _Read(NamedTuple):
    """A file that was read.

    Attributes:
        path: its path.
        stamp: its stamp from just before it was read.
        problem: why it cannot be sent; None if it was sent.
    """

    path: str
    stamp: Stamp
    problem: str | None


class _Inputs:
    """The inputs of `client.map`: one for each file that can be read, in order.

    Attributes:
        read: the files that were read but are not recorded in the journal yet.
    """

    def __init__(self, paths: Sequence[str], max_file_bytes: int) -> None:
        self.read: deque[_Read] = deque()
        self._paths = paths
        self._max_file_bytes = max_file_bytes

    def __iter__(self) -> Iterator[str | NDArray[Any] | bytes]:
        for path in self._paths:
            stamp = stamp_of(path)
            payload: str | NDArray[Any] | bytes = path
            problem = None
            # The map's own threads read image files. A pipe is read here, because Ctrl-C cannot interrupt a thread that
            # waits for a pipe's writer.
            if path.lower().endswith(".npy") or not stamp or stamp[0] > self._max_file_bytes:
                try:
                    payload = input_data.parse(input_data.read_file(path, self._max_file_bytes))
                except OSError as error:
                    problem = error.strerror or str(error)
                except InvalidRequest as error:
                    problem = error.reason
            self.read.append(_Read(path, stamp, problem))
            if problem is None:
                yield payload


def _next_sent(journal: Journal, inputs: _Inputs) -> tuple[str, Stamp]:
    """Return the next file that was sent; record the unreadable files before it."""
    while (read := inputs.read.popleft()).problem is not None:
        _record_unreadable(journal, read)
    return read.path, read.stamp


def _record_unreadable(journal: Journal, read: _Read) -> None:
    journal.add_failure(read.path, read.stamp, read.problem or "")


def _reason(error: PoolError, path: str) -> str:
    """Return the reason without the path, which is printed beside it."""
    if isinstance(error, InvalidRequest):
        return sdk_errors.reason(error).removeprefix(f"{path}: ")
    return sdk_errors.describe(error)


def _arrays(results: Sequence[Any]) -> Iterator[NDArray[Any]]:
    """Yield each operator's values, followed by its indices if they were requested."""
    for result in results:
        if isinstance(result, tuple):
            yield from result
        else:
            yield result


@contextmanager
def _progress_bar(journal: Journal, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr if that is a terminal; the block calls the returned function after each file."""
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    # rich is imported only if a bar is shown.
    from poolservice_client._map.progress import Progress

    progress = Progress(journal.total, done=journal.done, failures=journal.failed)
    progress.start()

    def update() -> None:
        progress.show(journal.done, journal.failed)

    try:
        yield update
    finally:
        update()
        progress.stop()
