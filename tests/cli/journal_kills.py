"""Kill runs that write a journal at random bytes, resume them, and check their results.

This is a program of its own, without the threads of gRPC, so that it can fork.

A child process has a random limit on the size of its files, and the default action for exceeding it: the kernel kills
it in the middle of whatever write reaches the limit, after the bytes that still fit. Other children kill themselves
after a random file. Between the runs, files change, vanish and, in runs with `update`, are added.
"""

import os
import random
import resource
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np

from poolservice_client._cli import journal as journals
from poolservice_client._cli.exit_errors import CommandError, UsageError
from poolservice_client._cli.feature_file import FeatureFile
from poolservice_client._cli.input_files import stamp_of
from poolservice_client._cli.journal import Journal

NAMES = ("values", "indices")
JOB = {"operators": ["x"]}
MOST_KILLS = 6
KILLED = {-signal.SIGXFSZ, -signal.SIGKILL}


def content(path: str) -> int | None:
    """Return the number in a file; None if there is no such file."""
    try:
        return int(Path(path).read_text())
    except FileNotFoundError:
        return None


def row(number: int) -> dict[str, np.ndarray]:
    """Return the row of a file, so large that a limit on the size of files can fall within it."""
    return {"values": np.full(40, number, np.float32), "indices": np.arange(3) + number}


def run(folder: Path, paths: list[str], chance: random.Random, *, update: bool, kill_after: int | None) -> None:
    """Write a journal and a feature file as `poolservice map` does; files with an odd number fail."""
    output = FeatureFile(folder / "f.npz", NAMES)
    journal = Journal.open(output.path, JOB, NAMES, paths, restart=False, update=update)
    for count, path in enumerate(journal.work.pending):
        if count == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        stamp, number = stamp_of(path), content(path)
        if number is None or number % 2:
            journal.add_failure(path, stamp, "missing" if number is None else "odd")
        else:
            journal.add_row(path, stamp, row(number))
        if chance.random() < 0.3:
            journal.checkpoint()
    journal.checkpoint()
    rows, done = journal.ordered_rows()
    if done:
        output.write(rows, done)
    reasons = {path: journal.entries[path].reason for path in journal.work.files if path not in done}
    (folder / "failures").write_text("".join(f"{path} {reason}\n" for path, reason in reasons.items()))
    journal.remove()


def run_in_child(folder: Path, paths: list[str], chance: random.Random, *, update: bool, kill: bool) -> int:
    """Return the exit status of a run, negative if a signal ended it."""
    limit = chance.randrange(6000) if kill and chance.random() < 0.8 else None
    kill_after = chance.randrange(len(paths)) if kill and limit is None and paths else None
    seed = chance.random()
    child = os.fork()
    if not child:
        status = 1
        try:
            if limit is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            run(folder, paths, random.Random(seed), update=update, kill_after=kill_after)
            status = 0
        except (CommandError, UsageError) as error:
            print(f"refused: {error}", flush=True)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def change_files(folder: Path, paths: list[str], chance: random.Random, *, update: bool) -> None:
    """Change, delete and add files; `paths` becomes the files that there are."""
    for path in list(paths):
        event = chance.random()
        if event < 0.1:
            number = chance.randrange(1000)
            # Always another size or another time than before.
            clock = os.stat(path).st_mtime_ns + 1_000_000
            Path(path).write_text(f"{number:04}")
            os.utime(path, ns=(clock, clock))
        elif event < 0.2:
            os.unlink(path)
            paths.remove(path)
    if update:
        for _ in range(chance.randrange(3)):
            path = str(folder / f"new-{chance.randrange(10**9)}")
            Path(path).write_text(f"{chance.randrange(1000):04}")
            paths.insert(chance.randrange(len(paths) + 1), path)


def check(seed: int, folder: Path) -> int:
    """Check one history of runs; return how many of them were killed."""
    chance = random.Random(seed)
    paths = [str(folder / f"{number:03}") for number in range(chance.randrange(1, 30))]
    first = list(paths)
    for path in paths:
        Path(path).write_text(f"{chance.randrange(1000):04}")
    numbers = {path: {content(path)} for path in paths}
    update, changes = chance.random() < 0.5, chance.random() < 0.6
    killed = 0
    for _ in range(chance.randrange(1, MOST_KILLS)):
        status = run_in_child(folder, paths, chance, update=update, kill=True)
        assert status == 0 or status in KILLED, f"seed {seed}: status {status}"
        if not status:
            # The run was complete before the kill, so the next one starts over.
            first = list(paths)
        killed += status != 0
        if changes:
            change_files(folder, paths, chance, update=update)
            for path in paths:
                numbers.setdefault(path, set()).add(content(path))
    (folder / "f.npz").unlink(missing_ok=True)
    assert run_in_child(folder, paths, chance, update=update, kill=False) == 0, f"seed {seed}: the last run failed"
    reasons = dict(line.split() for line in (folder / "failures").read_text().splitlines())
    done: list[str] = []
    if (folder / "f.npz").exists():
        with np.load(folder / "f.npz") as arrays:
            done, values, indices = arrays["paths"].tolist(), arrays["values"], arrays["indices"]
        assert len(done) == len(values) == len(indices), f"seed {seed}"
        for path, *found in zip(done, values, indices, strict=True):
            now = content(path)
            possible = numbers[path] if now is None else {now}
            matches = [
                all(np.array_equal(a, b) for a, b in zip(found, row(number).values(), strict=True))
                for number in possible
                if number is not None and number % 2 == 0
            ]
            assert any(matches), f"seed {seed}: a wrong row of {path}"
    # Every file that there is has its row, or fails for its own reason; each once, in order.
    present = [path for path in paths if (content(path) or 0) % 2 == 0]
    assert [path for path in done if path in paths] == present, f"seed {seed}: {done} is not {present}"
    assert {path for path, reason in reasons.items() if reason == "odd"} >= set(paths) - set(present), f"seed {seed}"
    vanished = [path for path in [*done, *reasons] if path not in paths]
    assert (set(vanished) <= set(first)) if not update else not vanished, f"seed {seed}: {vanished}"
    assert not (folder / "f.npz.partial").exists(), f"seed {seed}"
    return killed


def main() -> None:
    """Check as many histories as the argument says; print how many runs were killed."""
    journals._CHECKPOINT_SECONDS = 1e9  # The runs decide themselves when to write a checkpoint.
    killed = 0
    for seed in range(int(sys.argv[1])):
        with tempfile.TemporaryDirectory() as folder:
            killed += check(seed, Path(folder))
    print(killed)


if __name__ == "__main__":
    main()
