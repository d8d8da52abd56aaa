"""Coalesced calls of tasks under random events: calls, cancellations, responses and errors, in any order."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from poolservice_client import AsyncPoolClient, InvalidRequest, Overloaded, ServerError

if TYPE_CHECKING:
    from tests.client.coalescing.aio.conftest import ScriptedTransport

Call = Callable[..., Awaitable[bool]]
Start = Callable[..., Awaitable[list[asyncio.Task[Any]]]]
Settle = Callable[[], Awaitable[None]]

Step = tuple[str, int, int]
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.sampled_from(
            ["call", "call", "call", "cancel", "respond", "respond", "refuse", "overload", "fail", "crash"]
        ),
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


class Scenario:
    """The calls of one client, and the events that happen to them, step by step."""

    def __init__(self, transport: "ScriptedTransport", call: Call, start: Start, settle: Settle) -> None:
        self.transport = transport
        self.call = call
        self.start = start
        self.settle = settle
        self.tasks: list[asyncio.Task[Any]] = []
        self.cancelled: set[int] = set()
        self.failures: set[type[BaseException]] = set()

    async def run(self, steps: list[Step]) -> None:
        async with AsyncPoolClient(transport=self.transport) as client:
            for event, choice, width in steps:
                if event == "call":
                    self.tasks += await self.start(self.call(client, len(self.tasks) + 1, None, width))
                elif event == "cancel":
                    await self._cancel(choice)
                else:
                    await self._end(choice, ERRORS[event]() if event in ERRORS else None)
            await self.transport.end_all()
            self._check(await asyncio.gather(*self.tasks, return_exceptions=True))
            # The coalescer is idle again: a call is sent immediately in a message of its own.
            before = len(self.transport.messages)
            (last,) = await self.start(self.call(client, 99))
            assert len(self.transport.messages) == before + 1
            await self.transport.end_all()
            assert await last

    async def _cancel(self, choice: int) -> None:
        if self.tasks and self.tasks[number := choice % len(self.tasks)].cancel():
            self.cancelled.add(number)
            await self.settle()

    async def _end(self, choice: int, error: BaseException | None) -> None:
        if in_flight := self.transport.in_flight:
            if error is not None:
                self.failures.add(type(error))
            await self.transport.end(self.transport.messages.index(in_flight[choice % len(in_flight)]), error)

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
def test_each_call_ends_once_and_with_the_right_outcome(
    new_transport: "Callable[[], ScriptedTransport]", call: Call, start: Start, settle: Settle, steps: list[Step]
) -> None:
    asyncio.run(Scenario(new_transport(), call, start, settle).run(steps))
