"""One run of `poolservice map`: sends the files and records each result in the journal."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

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
from poolservice_client._cli.journal import Journal
from poolservice_client._request import files


def run(
    client: PoolClient,
    specs: Sequence[Any],
    options: dict[str, Any],
    paths: Sequence[str],
    journal: Journal,
    *,
    quiet: bool,
) -> None:
    """Pool the files that are not done yet and write the results to the journal.

    Raises:
        CommandError: the service is unavailable or rejects the caller; the journal has the finished files.
        typer.Exit: the user pressed Ctrl-C.
    """
    inputs = _Inputs(paths[journal.done :])
    resume_hint = f"run the same command to resume; finished rows are in {journal.folder}"
    items = client.map(inputs, specs, items=True, **options)
    try:
        with _progress_bar(journal, quiet=quiet) as update_bar, closing(items):
            for item in items:
                _record_unreadable(journal, inputs)
                if item.error is not None and (service_error := _service_error(client, item.error)):
                    journal.checkpoint()
                    raise CommandError(
                        f"{sdk_errors.describe(service_error)}; {journal.saved:,} of {journal.total:,} files are "
                        f"done; {resume_hint}"
                    )
                if item.error is not None:
                    journal.add_failure(_reason(item.error, paths[journal.done]))
                else:
                    journal.add_row(dict(zip(journal.names, _arrays(item.result), strict=True)))
                update_bar()
            _record_unreadable(journal, inputs)
        journal.checkpoint()
    except KeyboardInterrupt:
        # No checkpoint here: the interrupt may have stopped one halfway.
        exit_errors.report(f"interrupted; {journal.saved:,} of {journal.total:,} files are done; {resume_hint}")
        raise typer.Exit(exit_errors.INTERRUPTED) from None


def _service_error(client: PoolClient, error: PoolError) -> PoolError | None:
    """Return the error of the service that would also fail all further files; None if only this file failed."""
    if isinstance(error, Unavailable | Unauthenticated | Overloaded):
        return error
    if isinstance(error, DeadlineExceeded):
        # Either this file takes too long, or the service no longer responds.
        try:
            client.health(timeout=shared_options.HEALTH_TIMEOUT)
        except PoolError as health_error:
            return health_error
    return None


class _Inputs:
    """The inputs of `client.map`: one for each file that can be read, in order.

    Attributes:
        read: an entry for each file that was read but is not recorded in the journal yet: None if the file was sent,
            else the reason why it cannot be read.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.read: deque[str | None] = deque()
        self._paths = paths

    def __iter__(self) -> Iterator[str | NDArray[Any] | bytes]:
        for path in self._paths:
            if not path.lower().endswith(".npy"):
                # The map's own threads read image files.
                self.read.append(None)
                yield path
                continue
            try:
                payload = input_data.parse(files.read(path))
            except OSError as error:
                self.read.append(error.strerror or str(error))
            except InvalidRequest as error:
                self.read.append(error.reason)
            else:
                self.read.append(None)
                yield payload


def _record_unreadable(journal: Journal, inputs: _Inputs) -> None:
    """Record the unreadable files before the next file that was sent."""
    while inputs.read and (reason := inputs.read.popleft()) is not None:
        journal.add_failure(reason)


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

    progress = Progress(journal.total, done=journal.done, failures=len(journal.failures))
    progress.start()

    def update() -> None:
        progress.show(journal.done, len(journal.failures))

    try:
        yield update
    finally:
        update()
        progress.stop()
