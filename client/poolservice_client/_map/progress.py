"""A progress bar for a map. Imported only where one is asked for, as it brings rich."""

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
    """Items done, of how many if that is known, how many failed, how fast, and how long it takes still.

    It is drawn on standard error, so that what a program prints stays clean; where that is no terminal, its last
    state is printed once.

    Args:
        total: the number of items; None where it is not known.
        done: those of them that were done before.
        failures: those of these that failed.
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
        """Draw it from now on."""
        self._bar.start_task(self._task)
        self._bar.start()

    def advance(self, *, failed: bool) -> None:
        """Count an item that is done."""
        self.show(self._done + 1, self._failures + failed)

    def show(self, done: int, failures: int) -> None:
        """Say how many are done, and how many of them failed."""
        self._done, self._failures = done, failures
        self._bar.update(self._task, completed=done, failures=_failed(failures))

    def stop(self) -> None:
        """Draw it a last time."""
        self._bar.stop()


def _failed(count: int) -> str:
    return f"{count} failed" if count else ""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")
