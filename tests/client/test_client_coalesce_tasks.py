"""Small calls of many tasks on one asyncio client: they travel together, and each has its own end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolservice import codec
from poolservice.v1 import pool_pb2
from poolservice_client import (
    AsyncPoolClient,
    AvgPool2d,
    DeadlineExceeded,
    GlobalMaxPool2d,
    InvalidRequest,
    MaxPool2d,
    Overloaded,
    PoolError,
    ServerError,
    _aio_coalesce,
)

BATCH = "/poolservice.v1.PoolService/PoolBatch"


def highest(request: codec.Request) -> bytes:
    """A PoolResponse with the maximum of each channel, as a server would write it."""
    shape = codec.parse_head(request.head).tensor.shape
    high = np.frombuffer(request.data, np.float32).reshape(shape).max((-2, -1), keepdims=True)
    head = pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=high.shape).SerializeToString()
    execution = pool_pb2.Execution(device="cpu", batch_size=1)
    return codec.encode_response(execution, [codec.Result(codec.Value("tensor", head, high.tobytes()))])


def answer(method: str, message: bytes) -> bytes:
    if method != BATCH:
        return highest(codec.decode_request(message))
    ok = codec.decode_batch_response(b"\x0a\x00")[0][0]
    return codec.encode_batch_response([(ok, highest(request)) for request in codec.decode_batch_request(message)])


class Script:
    """A transport whose messages stay under way until a test ends them, rightly or with an error."""

    def __init__(self) -> None:
        self.flights: list[asyncio.Future[None]] = []
        self.methods: list[str] = []
        self.timeouts: list[float | None] = []
        self.second = asyncio.Event()

    async def call(self, method: str, request: bytes, timeout: float | None) -> bytes:  # noqa: ASYNC109
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.flights.append(ended)
        self.methods.append(method)
        self.timeouts.append(timeout)
        if len(self.flights) == 2:
            self.second.set()
        await ended
        return answer(method, request)

    async def close(self) -> None:
        for flight in self.under_way:
            flight.set_exception(PoolError("closed"))

    @property
    def under_way(self) -> list[asyncio.Future[None]]:
        return [flight for flight in self.flights if not flight.done()]

    async def end(self, number: int, error: BaseException | None = None) -> None:
        """End a message, and let whoever waits for it go on."""
        flight = self.flights[number]
        if error is None:
            flight.set_result(None)
        else:
            flight.set_exception(error)
        await settled()

    async def run_dry(self) -> None:
        """End every message rightly until there is none."""
        while self.under_way:
            for flight in self.under_way:
                flight.set_result(None)
            await settled()


async def settled() -> None:
    """Let every task run to where it waits for what a test decides."""
    for _ in range(12):
        await asyncio.sleep(0)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_aio_coalesce, "PATIENCE_SECONDS", 60.0)


async def ask(client: AsyncPoolClient, number: int, timeout: float | None = None, width: int = 4) -> bool:  # noqa: ASYNC109
    """Make a call whose answer is `number`; whether it was."""
    x = np.full((2, 4, width), number, np.float32)
    y = await client.pool(x, GlobalMaxPool2d(), timeout=timeout)
    return y.shape == (2, 1, 1) and bool((y == number).all()) and y.flags.owndata and y.flags.writeable


async def start(*calls: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.ensure_future(call) for call in calls]
    await settled()
    return tasks


async def test_tasks_travel_together(script: Script, patient: None) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number) for number in range(40)))
        assert len(script.flights) == 1
        await script.run_dry()
        assert await asyncio.gather(*tasks) == [True] * 40
    assert len(script.flights) == 2


async def test_those_that_were_answered_travel_together_again(script: Script, patient: None) -> None:
    async def loop(client: AsyncPoolClient, number: int) -> bool:
        return all([await ask(client, number + again) for again in range(5)])

    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(loop(client, number) for number in range(10)))
        await script.run_dry()
        assert await asyncio.gather(*tasks) == [True] * 10
    # The first call of the first task, four or five rounds of all ten, and the end of the first task's head start.
    assert len(script.flights) <= 7


async def test_cancelling_the_lines_own_task_costs_nobody_an_answer(script: Script, patient: None) -> None:
    async with AsyncPoolClient(transport=script) as client:
        before = asyncio.all_tasks()
        tasks = await start(*(ask(client, number) for number in range(5)))
        await script.end(0)
        tasks += await start(*(ask(client, number) for number in range(5)))
        for task in asyncio.all_tasks() - before - set(tasks):
            task.cancel()
        await settled()
        await script.run_dry()
        assert await asyncio.gather(*tasks) == [True] * 10
    # A loop that is being shut down gets no new task of the line's: each of the nine goes in its own.
    assert len(script.flights) == 2 + 9


async def test_unequal_ones_travel_side_by_side(script: Script, patient: None) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number, None, 3 + number % 3) for number in range(40)))
        await script.run_dry()
        assert await asyncio.gather(*tasks) == [True] * 40
    assert script.methods[1:] == [BATCH]


async def test_it_is_turned_off(script: Script) -> None:
    async with AsyncPoolClient(transport=script, coalesce=False) as client:
        tasks = await start(*(ask(client, number) for number in range(20)))
        assert len(script.flights) == 20
        await script.run_dry()
        assert await asyncio.gather(*tasks) == [True] * 20


async def test_a_cancelled_leader_cancels_nobody_else(script: Script, patient: None) -> None:
    async with AsyncPoolClient(transport=script) as client:
        first, *others = await start(*(ask(client, number) for number in range(5)))
        first.cancel()
        await settled()
        assert script.flights[0].cancelled()
        await script.run_dry()
        assert await asyncio.gather(*others) == [True] * 4
        assert first.cancelled()
    assert len(script.flights) == 2


async def test_one_that_is_cancelled_leaves_the_others_and_the_last_one_takes_the_message_with_it(
    script: Script, patient: None
) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number) for number in range(5)))
        tasks[1].cancel()
        await script.end(0)
        tasks[2].cancel()
        await settled()
        assert not script.flights[1].done()
        tasks[3].cancel()
        tasks[4].cancel()
        await settled()
        assert script.flights[1].cancelled()
        assert await tasks[0]
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks[1:])
        (last,) = await start(ask(client, 7))
        await script.run_dry()
        assert await last
    assert len(script.flights) == 3


async def test_each_has_its_own_deadline(script: Script, patient: None) -> None:
    async with AsyncPoolClient("there:1", transport=script) as client:
        tasks = await start(ask(client, 0), ask(client, 1, 20), ask(client, 2, 0.1), ask(client, 3, 0.03))
        with pytest.raises(DeadlineExceeded, match=r"there:1 gave no answer within the timeout of 0\.03 s"):
            await tasks[3]
        await script.end(0)
        with pytest.raises(DeadlineExceeded, match=r"there:1 gave no answer within the timeout of 0\.1 s"):
            await tasks[2]
        assert script.timeouts[1] is not None
        assert 10 < script.timeouts[1] <= 20
        await script.run_dry()
        assert await tasks[0]
        assert await tasks[1]
    assert len(script.flights) == 2


@pytest.mark.parametrize("error", [InvalidRequest("no"), ServerError("no"), RuntimeError("no"), DeadlineExceeded("no")])
async def test_what_is_said_of_a_message_is_not_said_of_its_calls(
    script: Script, patient: None, error: Exception
) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number) for number in range(5)))
        await script.end(0)
        await script.end(1, error)
        assert len(script.under_way) == 4
        await script.end(3, InvalidRequest("this one"))
        await script.run_dry()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(outcome is True for outcome in outcomes) == 4
    assert [str(outcome) for outcome in outcomes if outcome is not True] == ["this one"]


async def test_what_is_said_of_the_server_is_said_to_all(script: Script, patient: None) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number) for number in range(5)))
        await script.end(0)
        await script.end(1, Overloaded("full", retry_after=7))
        first, *outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert first is True
    assert all(isinstance(outcome, Overloaded) and outcome.retry_after == 7 for outcome in outcomes)
    assert len(set(map(id, outcomes))) == 4


async def test_nobody_waits_long_behind_a_slow_answer(script: Script) -> None:
    async with AsyncPoolClient(transport=script) as client:
        tasks = await start(*(ask(client, number) for number in range(5)))
        await asyncio.wait_for(script.second.wait(), 30)
        await script.end(1)
        assert await asyncio.gather(*tasks[1:]) == [True] * 4
        assert not tasks[0].done()
        await script.run_dry()
        assert await tasks[0]


async def test_closing_ends_those_that_wait(script: Script, patient: None) -> None:
    client = AsyncPoolClient(transport=script)
    tasks = await start(*(ask(client, number) for number in range(5)))
    await script.end(0)
    tasks += await start(*(ask(client, number) for number in range(5)))
    closing = asyncio.create_task(client.close())
    await settled()
    await script.close()  # gRPC's transport refuses what comes after it was closed; this one ends it
    await asyncio.wait_for(closing, 30)
    first, *outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert first is True
    assert all(isinstance(outcome, PoolError) for outcome in outcomes)


def test_a_loop_that_ends_in_the_middle_leaves_nothing_behind(script: Script, patient: None) -> None:
    async def leave() -> list[asyncio.Task[Any]]:
        client = AsyncPoolClient(transport=script)
        tasks = await start(*(ask(client, number) for number in range(5)))
        await script.end(0)
        return tasks + await start(*(ask(client, number) for number in range(5)))

    tasks = asyncio.run(leave())
    assert tasks[0].result()
    assert all(task.cancelled() for task in tasks[1:])


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


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_happens_each_call_ends_once_and_rightly(steps: list[Step]) -> None:
    asyncio.run(_Story().run(steps))


class _Story:
    """What happens to some calls of one client, step by step."""

    def __init__(self) -> None:
        self.script = Script()
        self.tasks: list[asyncio.Task[Any]] = []
        self.cancelled: set[int] = set()
        self.failures = 0

    async def run(self, steps: list[Step]) -> None:
        async with AsyncPoolClient(transport=self.script) as client:
            for what, choice, width in steps:
                if what == "call":
                    self.tasks += await start(ask(client, len(self.tasks) + 1, None, width))
                elif what == "cancel":
                    await self._cancel(choice)
                else:
                    await self._end(choice, ERRORS[what]() if what in ERRORS else None)
            await self.script.run_dry()
            self._check(await asyncio.gather(*self.tasks, return_exceptions=True))
            # The line is idle again: one call goes at once and alone.
            before = len(self.script.flights)
            (last,) = await start(ask(client, 99))
            assert len(self.script.flights) == before + 1
            await self.script.run_dry()
            assert await last

    async def _cancel(self, choice: int) -> None:
        if self.tasks and self.tasks[number := choice % len(self.tasks)].cancel():
            self.cancelled.add(number)
            await settled()

    async def _end(self, choice: int, error: BaseException | None) -> None:
        if under_way := self.script.under_way:
            self.failures += error is not None
            await self.script.end(self.script.flights.index(under_way[choice % len(under_way)]), error)

    def _check(self, outcomes: list[Any]) -> None:
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, asyncio.CancelledError):
                assert number in self.cancelled
            elif isinstance(outcome, BaseException):
                assert isinstance(outcome, PoolError | RuntimeError)
                assert self.failures
            else:
                assert outcome is True


async def test_the_real_server_answers_as_it_does_alone(server_address: str) -> None:
    random = np.random.default_rng(4)
    xs = [random.standard_normal((3, 6 + 2 * (n % 3), 8)).astype(np.float32) for n in range(300)]
    specs = [MaxPool2d(2, return_indices=True), AvgPool2d(2)]
    async with AsyncPoolClient(server_address) as client, AsyncPoolClient(server_address, coalesce=False) as alone:
        replies = await asyncio.gather(*(client.pool(x, specs, execution=True) for x in xs))
        assert max(execution.batch_size for _, execution in replies) > 10
        for x, (((high, at), mean), _) in zip(xs, replies, strict=True):
            (right, where), average = await alone.pool(x, specs)
            for one, other in ((high, right), (at, where), (mean, average)):
                np.testing.assert_array_equal(one, other, strict=True)
