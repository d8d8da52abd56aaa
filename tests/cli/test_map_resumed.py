"""`poolservice map` resumed after a run that ended early."""

import contextlib
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from poolservice_server.testing import Service

pytestmark = pytest.mark.skipif(os.name == "nt", reason="uses signals and named pipes")

Command = Callable[..., CompletedProcess[str]]

ALL, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
SECONDS = 60.0
FILES = [f"x/{number:03}.npy" for number in range(100)]
# These are named pipes while the first run reads them.
PIPES = FILES[1::2]
# Files that fail: one among the first ones, one near the end.
BROKEN = ("x/004.npy", "x/090.npy")
IMAGE = "x/001.png"
INPUTS = sorted([*FILES, IMAGE])
ARGUMENTS = ("map", "x/*", "--op", "gap2d", "-o", "f.npz")


class PipedRun:
    """A run of the command with named pipes among its files, so that it reads only as far as the test writes."""

    def __init__(self, folder: Path, address: str, *flags: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "poolservice_client", *ARGUMENTS, "--address", address, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        self._unwritten = iter(PIPES)

    def write_next(self) -> bool:
        """Write the next pipe as soon as the command reads it; return False if none is left or the command ended."""
        path = next(self._unwritten, None)
        while path is not None and self.process.poll() is None:
            try:
                # O_NONBLOCK fails if there is no reader yet; a plain open would wait for ever.
                pipe = os.open(self.folder / path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                self._wait(0.01)
            else:
                with open(pipe, "wb") as file:
                    file.write(npy_file(path))
                return True
        return False

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    @property
    def saved(self) -> list[str]:
        """The files up to the last checkpoint."""
        journal = self.folder / "f.npz.partial" / "journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)[1:] if journal.exists() else []
        checkpoints = [json.loads(line.partition(b" ")[2]) for line in lines if line.endswith(b"\n")]
        return [path for checkpoint in checkpoints for path, *_ in checkpoint["done"]]

    def write_until_checkpoint(self) -> None:
        """Write pipes until a checkpoint.

        Half of the pipes, at most ten per second, take longer than the interval between checkpoints, so the result of
        the last one causes a checkpoint, however slow this machine is.
        """
        for _ in range(len(PIPES) // 2):
            if not self.saved:
                self.write_next()
                self._wait(0.1)
        deadline = time.monotonic() + SECONDS
        while not self.saved:
            assert self.process.poll() is None
            assert time.monotonic() < deadline, "no checkpoint was written"
            self._wait(0.05)
        assert self.process.poll() is None

    def kill(self) -> list[str]:
        """Kill the process; return the files whose rows a resumed run keeps."""
        self.process.kill()
        self.process.communicate(timeout=SECONDS)
        return [path for path in self.saved if path not in PIPES]


def npy_file(path: str) -> bytes:
    """Return the .npy file for a path: an array filled with the number in its name."""
    file = io.BytesIO()
    np.save(file, np.full((3, 4, 4), int(Path(path).stem), np.float32))
    return file.getvalue()


@pytest.fixture
def start(tmp_path: Path, server_address: str) -> Iterator[Callable[..., PipedRun]]:
    """Create the files and return a function that starts the command."""
    (tmp_path / "x").mkdir()
    Image.new("RGB", (5, 5), (255, 255, 255)).save(tmp_path / IMAGE)
    for path in FILES:
        if path in PIPES:
            os.mkfifo(tmp_path / path)
        else:
            (tmp_path / path).write_bytes(b"\x93NUMPY" if path in BROKEN else npy_file(path))
    started: list[PipedRun] = []

    def run(*flags: str, address: str = server_address) -> PipedRun:
        started.append(PipedRun(tmp_path, address, *flags))
        return started[-1]

    yield run
    for run_to_end in started:
        run_to_end.process.kill()
        run_to_end.process.communicate()


def replace_pipes(folder: Path, *, kept: Sequence[str] = ()) -> None:
    """Replace the pipes by files. The content of the files in `kept` is destroyed, since nothing may read it again."""
    for path in PIPES:
        (folder / path).unlink()
        (folder / path).write_bytes(npy_file(path))
    for path in kept:
        before = (folder / path).stat()
        (folder / path).write_bytes(b"?" * before.st_size)
        os.utime(folder / path, ns=(before.st_atime_ns, before.st_mtime_ns))


def assert_complete(folder: Path) -> None:
    """Check that the results are those of all files but the broken ones, each once and in order."""
    with np.load(folder / "f.npz") as arrays:
        paths, features = arrays["paths"].tolist(), arrays["features"]
    assert paths == [path for path in INPUTS if path not in BROKEN]
    expected = [1 if path == IMAGE else int(Path(path).stem) for path in paths]
    np.testing.assert_array_equal(features, np.repeat(np.array(expected, np.float32)[:, None], 3, axis=1))
    assert not (folder / "f.npz.partial").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM], ids=lambda sent: sent.name)
def test_the_same_command_resumes_a_run_that_a_signal_ended(
    start: Callable[..., PipedRun], command: Command, tmp_path: Path, sent: signal.Signals
) -> None:
    run = start()
    run.write_until_checkpoint()
    run.process.send_signal(sent)
    stdout, stderr = run.process.communicate(timeout=SECONDS)
    assert stdout == ""
    assert not (tmp_path / "f.npz").exists()
    saved = run.saved
    if sent == signal.SIGINT:
        assert run.process.returncode == INTERRUPTED
        assert stderr == (
            f"poolservice: interrupted; {len(saved)} of 101 files are done; run the same command to resume; finished "
            "rows are in f.npz.partial\n"
        )
    else:
        assert (run.process.returncode, stderr) == (-sent, "")
    kept = [path for path in saved if path not in PIPES]
    replace_pipes(tmp_path, kept=kept)
    done = command(*ARGUMENTS)
    assert done.returncode == FAILED
    first, second, *failed = done.stderr.splitlines()
    assert first == f"poolservice: resuming: {len(kept)} of 101 files are already done"
    # Nothing tells whether the content of a pipe would be the same again.
    assert second == (
        f"poolservice: {len(saved) - len(kept)} of the files changed since they were pooled, and are pooled again; "
        f"the first is {PIPES[0]}"
    )
    assert failed[0] == "poolservice: 2 of 101 files failed"
    assert [line.split(":")[0].strip() for line in failed[1:]] == list(BROKEN)
    assert done.stdout.startswith("99 of 101 files -> f.npz: features (3,) float32 per file; ")
    assert_complete(tmp_path)


def test_incomplete_writes_are_ignored(start: Callable[..., PipedRun], command: Command, tmp_path: Path) -> None:
    run = start()
    run.write_until_checkpoint()
    replace_pipes(tmp_path, kept=run.kill())
    # An incomplete row and an incomplete line.
    with (tmp_path / "f.npz.partial" / "features.npy").open("ab") as rows:
        rows.write(b"\x00" * 7)
    with (tmp_path / "f.npz.partial" / "journal.jsonl").open("a") as journal:
        journal.write('01234567 {"rows": 1, "check')
    assert command(*ARGUMENTS).returncode == FAILED
    assert_complete(tmp_path)


def test_a_run_with_other_arguments_is_a_usage_error(
    start: Callable[..., PipedRun], entry_point: Command, command: Command, tmp_path: Path
) -> None:
    run = start()
    run.write_until_checkpoint()
    busy = entry_point(*ARGUMENTS)
    assert (busy.returncode, busy.stdout) == (FAILED, "")
    assert busy.stderr == (
        "poolservice: another process is working on f.npz.partial; wait for it, or write to another file\n"
    )
    assert entry_point(*ARGUMENTS, "--restart").stderr == busy.stderr
    run.kill()
    replace_pipes(tmp_path)
    for arguments, words in (
        ((*ARGUMENTS, "--op", "gmp2d"), "operators = GlobalAvgPool2d(), not GlobalAvgPool2d(), GlobalMaxPool2d();"),
        ((*ARGUMENTS, "--tensors"), "output = features, not tensor;"),
        ((*ARGUMENTS, "--float16"), "dtype = None, not float16;"),
    ):
        done = entry_point(*arguments)
        assert (done.returncode, done.stdout) == (USAGE, "")
        assert done.stderr == (
            f"poolservice: f.npz.partial belongs to another command, with {words} run that command again to resume it, "
            "or give --restart to start over\n"
        )
    again = command(*ARGUMENTS, "--restart")
    assert again.returncode == FAILED
    assert "resuming" not in again.stderr
    assert_complete(tmp_path)


def test_a_run_is_resumed_after_its_server_was_killed(
    start: Callable[..., PipedRun], start_server: Callable[..., Service], command: Command, tmp_path: Path
) -> None:
    server = start_server()
    run = start("--timeout", "2", address=server.address)
    run.write_until_checkpoint()
    server.kill()
    while run.write_next():
        pass
    stdout, stderr = run.process.communicate(timeout=SECONDS)
    assert (run.process.returncode, stdout) == (FAILED, "")
    message = re.fullmatch(r"poolservice: .*; (\d+) of 101 files are done; run the same command to .*\n", stderr)
    assert message, stderr
    assert server.address in stderr
    saved = run.saved
    assert int(message[1]) == len(saved) > 0
    kept = [path for path in saved if path not in PIPES]
    replace_pipes(tmp_path, kept=kept)
    done = command(*ARGUMENTS)
    assert done.returncode == FAILED
    assert done.stderr.startswith(f"poolservice: resuming: {len(kept)} of 101 files are already done\n")
    assert_complete(tmp_path)


def test_a_run_that_failed_to_write_its_file_is_resumed_without_a_server(
    entry_point: Command, tmp_path: Path, server_address: str, unused_address: str
) -> None:
    (tmp_path / "x").mkdir()
    for path in FILES[:4]:
        (tmp_path / path).write_bytes(npy_file(path))
    for name in ("f.npz", "f.npy", "f.parquet"):
        arguments = ("map", "x/*", "--op", "gap2d", "-o", name)
        # A folder at the file's path makes the last step fail.
        (tmp_path / name).mkdir()
        done = entry_point(*arguments, "--address", server_address)
        assert (done.returncode, done.stdout) == (FAILED, "")
        (tmp_path / name).rmdir()
        done = entry_point(*arguments, "--address", unused_address)
        assert done.returncode == ALL
        assert done.stdout.startswith(f"4 of 4 files -> {name}: ")
        assert not (tmp_path / f"{name}.partial").exists()
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy")[:, 0], [0, 1, 2, 3])


def test_a_journal_without_progress_does_not_bind_the_next_command(
    command: Command, tmp_path: Path, unused_address: str, photograph: Path
) -> None:
    done = command("map", photograph, "--op", "gap2d", "-o", "f.npz", "--address", unused_address)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr.startswith(f"poolservice: no server answers at {unused_address}")
    assert "0 of 1 files are done" in done.stderr
    other = command("map", photograph, "--op", "gmp2d", "-o", "f.npz")
    assert (other.returncode, other.stderr) == (ALL, "")
