"""The progress bar of `map`. Imported only when a bar is shown, because it loads rich."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)
from rich.text import Text


class Progress:
    """A bar on standard error: items done, their total if it is known, the rate, the time left and the failures.

    If standard error is not a terminal, the last state is printed once.

    Args:
        total: the number of items; None if it is unknown.
        done: the items that an earlier run has done.
        failures: the failed items among them.
    """

    def __init__(self, total: int | None, *, done: int = 0, failures: int = 0) -> None:
        self._done = done
        self._failures = failures
        self._bar = Bar(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            *([] if total is None else [TextColumn("left"), TimeRemainingColumn()]),
            TextColumn("{task.fields[failures]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=total, completed=done, start=False, failures=_failed(failures))

    def start(self) -> None:
        """Show the bar."""
        self._bar.start_task(self._task)
        self._bar.start()

    def advance(self, *, failed: bool) -> None:
        """Count one more item that is done."""
        self.show(self._done + 1, self._failures + failed)

    def show(self, done: int, failures: int) -> None:
        """Show how many items are done, and how many of them failed."""
        self._done, self._failures = done, failures
        self._bar.update(self._task, completed=done, failures=_failed(failures))

    def stop(self) -> None:
        """Show the last state, and stop updating it."""
        self._bar.stop()


def _failed(count: int) -> str:
    return f"{count} failed" if count else ""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")
