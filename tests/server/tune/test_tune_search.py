"""The search of `tune` on a machine whose speed with each setting is known, and its report."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest

from poolservice_server.settings import Settings
from poolservice_server.tune import search as search_module
from poolservice_server.tune.job import Job
from poolservice_server.tune.load import LoadFailed, Measured
from poolservice_server.tune.report import as_json, as_text
from poolservice_server.tune.search import Outcome, Search
from poolservice_server.tune.tuned_server import CannotStart, Changes

JOBS = [Job("tensors", b"x" * 2000, 1, False, 32, 1.0, False, False)]

# Requests per second and the 99th percentile with some settings.
Speed = Callable[[Changes], Measured]


class Server:
    """A server that is as fast as `Machine.speed` says."""

    runs_on_cpu = True
    ready_line = "poolservice on cpu (a known one) is serving at 127.0.0.1:1"

    def __init__(self, machine: "Machine", changes: Changes) -> None:
        self.machine = machine
        self.address = str(len(machine.servers))
        if changes.get("workers") == 4:
            raise CannotStart("too many workers")
        machine.servers.append(changes)
        machine.running.add(self.address)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.machine.running.discard(self.address)

    def memory_bytes(self) -> int:
        return 300 * 2**20


class Machine:
    """A machine of 4 cores; it also stands in for the load generator."""

    def __init__(self, speed: Speed) -> None:
        self.speed = speed
        self.servers: list[Changes] = []
        self.running: set[str] = set()
        self.most_running = 0

    def measure(self, address: str, _job: int, _seconds: float) -> Measured:
        self.most_running = max(self.most_running, len(self.running))
        return self.speed(self.servers[int(address)])

    def forget(self, _address: str) -> None:
        return


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Outcome, Machine]]:
    """Return a function that searches on a machine with some speed."""

    def search(speed: Speed, seconds: float = 3600) -> tuple[Outcome, Machine]:
        machine = Machine(speed)
        monkeypatch.setattr(search_module, "Load", lambda _jobs, _cores: nullcontext(machine))
        monkeypatch.setattr(search_module, "TunedServer", lambda _flags, changes: Server(machine, changes))
        found = Search([], Settings(), JOBS, cores=4, seconds=seconds, report=lambda _: None)
        try:
            return found.run(), machine
        finally:
            assert not machine.running

    return search


Run = Callable[..., tuple[Outcome, Machine]]


def test_the_better_values_are_chosen_one_after_the_other_and_confirmed(run: Run) -> None:
    def speed(changes: Changes) -> Measured:
        rate = 100 * (1.3 if changes.get("workers") == 2 else 1) * (1.2 if changes.get("max_batch_size") == 16 else 1)
        return Measured(rate, 1, 2)

    outcome, machine = run(speed)
    assert outcome.chosen == {"workers": 2, "max_batch_size": 16}
    assert outcome.confirmed is not None
    assert outcome.confirmed.ratio == pytest.approx(1.56)
    assert not outcome.not_tried
    decisions = {(trial.setting, trial.value): trial.decision for trial in outcome.trials}
    assert decisions["workers", 2] == "chosen"
    assert decisions["workers", 4] == "does not start: too many workers"
    assert decisions["threads", 4] == "no more than the noise"
    # The user's own settings, the best ones so far, and the values of one setting.
    assert machine.most_running <= 5
    report = as_json(outcome, Settings(), JOBS)
    assert report["changed"] == {"workers": 2, "max_batch_size": 16}
    text = as_text(outcome, Settings(), JOBS)
    assert "use these settings, with 1.56 times the throughput (noise 0.0%) of your own:" in text
    assert "  workers = 2  (yours: 1)" in text
    assert "  threads = 0\n" in text


def test_a_gain_that_the_last_comparison_does_not_show_is_no_gain(run: Run) -> None:
    rounds = {"own": 0}

    def speed(changes: Changes) -> Measured:
        rounds["own"] += not changes
        return Measured(200 if changes.get("workers") == 2 and rounds["own"] < 13 else 100, 1, 2)

    outcome, _ = run(speed)
    assert [trial.value for trial in outcome.trials if trial.decision == "chosen"] == [2]
    assert outcome.confirmed is not None
    assert outcome.chosen == {}
    assert "use your own settings" in as_text(outcome, Settings(), JOBS)


def test_more_throughput_is_not_worth_a_much_longer_99th_percentile(run: Run) -> None:
    outcome, _ = run(lambda changes: Measured(150, 1, 9) if changes.get("max_batch_delay") else Measured(100, 1, 2))
    assert outcome.chosen == {}
    delays = [trial.decision for trial in outcome.trials if trial.setting == "max_batch_delay"]
    assert delays == ["the 99th percentile of tensors is 4.5 times as long"] * 2


def test_a_value_with_which_a_job_fails_is_left_out(run: Run) -> None:
    def speed(changes: Changes) -> Measured:
        if changes.get("threads"):
            raise LoadFailed("INTERNAL: out of threads")
        return Measured(100, 1, 2)

    outcome, _ = run(speed)
    threads = {trial.decision for trial in outcome.trials if trial.setting == "threads"}
    assert threads == {"the job 'tensors' failed: INTERNAL: out of threads"}
    assert "the job 'tensors' failed" in as_text(outcome, Settings(), JOBS)


def test_a_hopeless_value_is_measured_in_two_rounds_only(run: Run) -> None:
    outcome, _ = run(lambda changes: Measured(10 if changes.get("threads") == 8 else 100, 1, 2))
    rounds = {
        trial.value: len(trial.measurements.rounds)
        for trial in outcome.trials
        if trial.setting == "threads" and trial.measurements
    }
    assert rounds == {2: 7, 8: 2, 16: 7}


def test_settings_for_which_the_time_is_too_short_are_named(run: Run) -> None:
    outcome, machine = run(lambda _: Measured(100, 1, 2), seconds=0.01)
    assert machine.servers == [{}]
    assert outcome.not_tried == ["workers", "threads", "max_batch_size", "max_batch_delay"]
    text = as_text(outcome, Settings(), JOBS)
    assert "not tried, because the time was too short (--seconds): workers, threads, max_batch_size" in text
    assert "use your own settings: nothing that was tried is better by more than the noise" in text
    assert "  max_batch_bytes = 67108864" in text
