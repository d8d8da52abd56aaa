"""Tasks whose calls travel together, and whatever may happen to them, in any order."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from poolservice_client import AsyncPoolClient, InvalidRequest, Overloaded, ServerError

if TYPE_CHECKING:
    from tests.client.coalescing.aio.conftest import Script

Ask = Callable[..., Awaitable[bool]]
Start = Callable[..., Awaitable[list[asyncio.Task[Any]]]]
Settled = Callable[[], Awaitable[None]]

Step = tuple[str, int, int]
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.sampled_from(["call", "call", "call", "cancel", "answer", "answer", "refuse", "overload", "fail", "crash"]),
        st.integers(0, 2**16),
        st.integers(3, 5),
    ),
    max_size=60,
)
ERRORS: dict[str, Callable[[], BaseException]] = {
    "refuse": lambda: InvalidRequest("no"),
    "overload": lambda: Overloaded("no"),
    "fail": lambda: ServerError("no"),
    "crash": lambda: RuntimeError("no"),
}


class Story:
    """What happens to some calls of one client, step by step."""

    def __init__(self, script: "Script", ask: Ask, start: Start, settled: Settled) -> None:
        self.script = script
        self.ask = ask
        self.start = start
        self.settled = settled
        self.tasks: list[asyncio.Task[Any]] = []
        self.cancelled: set[int] = set()
        self.failures: set[type[BaseException]] = set()

    async def run(self, steps: list[Step]) -> None:
        async with AsyncPoolClient(transport=self.script) as client:
            for what, choice, width in steps:
                if what == "call":
                    self.tasks += await self.start(self.ask(client, len(self.tasks) + 1, None, width))
                elif what == "cancel":
                    await self._cancel(choice)
                else:
                    await self._end(choice, ERRORS[what]() if what in ERRORS else None)
            await self.script.run_dry()
            self._check(await asyncio.gather(*self.tasks, return_exceptions=True))
            # The line is idle again: one call goes at once and alone.
            before = len(self.script.flights)
            (last,) = await self.start(self.ask(client, 99))
            assert len(self.script.flights) == before + 1
            await self.script.run_dry()
            assert await last

    async def _cancel(self, choice: int) -> None:
        if self.tasks and self.tasks[number := choice % len(self.tasks)].cancel():
            self.cancelled.add(number)
            await self.settled()

    async def _end(self, choice: int, error: BaseException | None) -> None:
        if under_way := self.script.under_way:
            if error is not None:
                self.failures.add(type(error))
            await self.script.end(self.script.flights.index(under_way[choice % len(under_way)]), error)

    def _check(self, outcomes: list[Any]) -> None:
        for number, outcome in enumerate(outcomes):
            if number in self.cancelled:
                assert isinstance(outcome, asyncio.CancelledError)
            elif isinstance(outcome, BaseException):
                assert type(outcome) in self.failures
            else:
                assert outcome is True


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_happens_each_call_ends_once_and_rightly(
    new_script: "Callable[[], Script]", ask: Ask, start: Start, settled: Settled, steps: list[Step]
) -> None:
    asyncio.run(Story(new_script(), ask, start, settled).run(steps))
