"""`poolservice map` that is ended in the middle, and the next run that completes what it left."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from poolservice_server.testing import Service

pytestmark = pytest.mark.skipif(os.name == "nt", reason="ends processes by signals, and feeds them through pipes")

Command = Callable[..., CompletedProcess[str]]

ALL, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
SECONDS = 60.0
FILES = [f"x/{number:03}.npy" for number in range(100)]
# Files that fail, among the first ones and behind.
BROKEN = ("x/004.npy", "x/090.npy")
PICTURE = "x/001.png"
INPUTS = sorted([*FILES, PICTURE])
ARGUMENTS = ("map", "x/*", "--op", "gap2d", "-o", "f.npz")


class Fed:
    """A run of the command whose .npy files are pipes: it reads as far as the test writes."""

    def __init__(self, folder: Path, address: str, *flags: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "poolservice_client", *ARGUMENTS, "--address", address, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        self._unfed = iter(FILES)

    def feed(self) -> bool:
        """Write the next pipe, once the command reads it; whether there was one, and it did."""
        path = next(self._unfed, None)
        while path is not None and self.process.poll() is None:
            try:
                # Without a reader this is refused, where a plain open would wait for ever.
                pipe = os.open(self.folder / path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                self._wait(0.01)
            else:
                with open(pipe, "wb") as file:
                    file.write(b"\x93NUMPY" if path in BROKEN else saved(path))
                return True
        return False

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    @property
    def kept(self) -> int:
        """How many files are done for good."""
        progress = self.folder / "f.npz.partial" / "progress.jsonl"
        lines = progress.read_text().splitlines() if progress.exists() else []
        return json.loads(lines[-1])["done"] if lines else 0

    def feed_until_some_are_kept(self) -> int:
        """Feed at most ten pipes a second, which is slow enough for a line of progress to come before the last."""
        for _ in range(len(FILES) - 10):
            self.feed()
            self._wait(0.1)
            if self.kept:
                assert self.process.poll() is None
                return self.kept
        raise AssertionError("nothing was kept")


def saved(path: str) -> bytes:
    """The .npy file that a path stands for: an array of its number."""
    file = io.BytesIO()
    np.save(file, np.full((3, 4, 4), int(Path(path).stem), np.float32))
    return file.getvalue()


@pytest.fixture
def start(tmp_path: Path, server_address: str) -> Iterator[Callable[..., Fed]]:
    """Makes the pipes and starts the command on them."""
    (tmp_path / "x").mkdir()
    Image.new("RGB", (5, 5), (255, 255, 255)).save(tmp_path / PICTURE)
    for path in FILES:
        os.mkfifo(tmp_path / path)
    started: list[Fed] = []

    def run(*flags: str, address: str = server_address) -> Fed:
        started.append(Fed(tmp_path, address, *flags))
        return started[-1]

    yield run
    for fed in started:
        fed.process.kill()
        fed.process.communicate()


def put_files(folder: Path, *, without: int = 0) -> None:
    """Files in the place of the pipes, but for so many first ones, which nobody may read again."""
    for path in FILES:
        (folder / path).unlink()
        (folder / path).write_bytes(b"\x93NUMPY" if path in BROKEN else saved(path))
    for path in INPUTS[:without]:
        (folder / path).write_bytes(b"what must not be read again")


def whole(folder: Path) -> None:
    """The results are those of all files but the broken ones, each once and in its place."""
    with np.load(folder / "f.npz") as arrays:
        paths, features = arrays["paths"].tolist(), arrays["features"]
    assert paths == [path for path in INPUTS if path not in BROKEN]
    expected = [1 if path == PICTURE else int(Path(path).stem) for path in paths]
    np.testing.assert_array_equal(features, np.repeat(np.array(expected, np.float32)[:, None], 3, axis=1))
    assert not (folder / "f.npz.partial").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_the_next_run_completes_what_an_ended_one_left(
    start: Callable[..., Fed], command: Command, tmp_path: Path, how: signal.Signals
) -> None:
    run = start()
    kept = run.feed_until_some_are_kept()
    run.process.send_signal(how)
    printed, said = run.process.communicate(timeout=SECONDS)
    assert printed == ""
    assert not (tmp_path / "f.npz").exists()
    kept = run.kept
    if how == signal.SIGINT:
        assert run.process.returncode == INTERRUPTED
        assert said == (
            f"poolservice: interrupted; {kept} of 101 files are done; the same command goes on; what is done is kept "
            "in f.npz.partial\n"
        )
    else:
        assert (run.process.returncode, said) == (-how, "")
    put_files(tmp_path, without=kept)
    done = command(*ARGUMENTS)
    assert done.returncode == FAILED
    head, *failed = done.stderr.splitlines()
    assert head == f"poolservice: {kept} of 101 files were done before; going on"
    assert failed[0] == "poolservice: 2 of 101 files failed"
    assert [line.split(":")[0].strip() for line in failed[1:]] == list(BROKEN)
    assert done.stdout.startswith("99 of 101 files -> f.npz: features (3,) float32 each; ")
    whole(tmp_path)


def test_what_was_being_written_at_the_end_counts_for_nothing(
    start: Callable[..., Fed], command: Command, tmp_path: Path
) -> None:
    run = start()
    kept = run.feed_until_some_are_kept()
    run.process.kill()
    run.process.communicate(timeout=SECONDS)
    put_files(tmp_path, without=run.kept)
    # Half a row, and half a line for it.
    with (tmp_path / "f.npz.partial" / "features.npy").open("ab") as rows:
        rows.write(b"\x00" * 7)
    with (tmp_path / "f.npz.partial" / "progress.jsonl").open("a") as progress:
        progress.write(f'{{"done": {kept + 1}, "fail')
    assert command(*ARGUMENTS).returncode == FAILED
    whole(tmp_path)


def test_a_run_with_other_arguments_is_refused(
    start: Callable[..., Fed], entry: Command, command: Command, tmp_path: Path
) -> None:
    run = start()
    run.feed_until_some_are_kept()
    busy = entry(*ARGUMENTS)
    assert (busy.returncode, busy.stdout) == (FAILED, "")
    assert busy.stderr == (
        "poolservice: another process is working on f.npz.partial; wait for it, or write to another file\n"
    )
    assert entry(*ARGUMENTS, "--restart").stderr == busy.stderr
    run.process.kill()
    run.process.communicate(timeout=SECONDS)
    put_files(tmp_path)
    for arguments, words in (
        ((*ARGUMENTS, "--op", "gmp2d"), "operators = GlobalAvgPool2d(), not GlobalAvgPool2d(), GlobalMaxPool2d();"),
        ((*ARGUMENTS, "--tensors"), "output = features, not tensor;"),
        ((*ARGUMENTS, "--float16"), "dtype = None, not float16;"),
        (("map", "x/*.npy", *ARGUMENTS[2:]), "files = 101, not 100;"),
        (("map", "x/*.npy", "y.npy", *ARGUMENTS[2:]), "other files;"),
    ):
        done = entry(*arguments)
        assert (done.returncode, done.stdout) == (USAGE, "")
        assert done.stderr == (
            f"poolservice: f.npz.partial was begun by another command, with {words} go on with the same arguments, or "
            "give --restart to begin again\n"
        )
    again = command(*ARGUMENTS, "--restart")
    assert again.returncode == FAILED
    assert "were done before" not in again.stderr
    whole(tmp_path)


def test_a_service_that_goes_away_ends_the_run_and_another_completes_it(
    start: Callable[..., Fed], start_server: Callable[..., Service], command: Command, tmp_path: Path
) -> None:
    server = start_server()
    run = start("--timeout", "2", address=server.address)
    run.feed_until_some_are_kept()
    server.kill()
    while run.feed():
        pass
    printed, said = run.process.communicate(timeout=SECONDS)
    assert (run.process.returncode, printed) == (FAILED, "")
    told = re.fullmatch(r"poolservice: .*; (\d+) of 101 files are done; the same command goes on; .*\n", said)
    assert told, said
    assert server.address in said
    kept = run.kept
    assert int(told[1]) == kept > 0
    put_files(tmp_path, without=kept)
    done = command(*ARGUMENTS)
    assert done.returncode == FAILED
    assert done.stderr.startswith(f"poolservice: {kept} of 101 files were done before; going on\n")
    whole(tmp_path)


def test_a_run_that_was_ended_while_it_moved_the_file_into_place_needs_no_server(
    entry: Command, tmp_path: Path, server_address: str, nobody: str
) -> None:
    (tmp_path / "x").mkdir()
    for path in FILES[:4]:
        (tmp_path / path).write_bytes(saved(path))
    for name in ("f.npz", "f.npy", "f.parquet"):
        arguments = ("map", "x/*", "--op", "gap2d", "-o", name)
        # A folder in the file's place is in the way of the last step.
        (tmp_path / name).mkdir()
        done = entry(*arguments, "--address", server_address)
        assert (done.returncode, done.stdout) == (FAILED, "")
        (tmp_path / name).rmdir()
        done = entry(*arguments, "--address", nobody)
        assert done.returncode == ALL
        assert done.stdout.startswith(f"4 of 4 files -> {name}: ")
        assert not (tmp_path / f"{name}.partial").exists()
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy")[:, 0], [0, 1, 2, 3])


def test_a_folder_that_lost_its_rows_says_so(start: Callable[..., Fed], command: Command, tmp_path: Path) -> None:
    run = start()
    run.feed_until_some_are_kept()
    run.process.kill()
    run.process.communicate(timeout=SECONDS)
    put_files(tmp_path)
    shutil.copy(tmp_path / FILES[0], tmp_path / "f.npz.partial" / "features.npy")
    done = command(*ARGUMENTS)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert "f.npz.partial cannot be gone on with: " in done.stderr
    assert done.stderr.endswith("give --restart to begin again\n")


def test_nothing_done_is_nothing_to_mix(command: Command, tmp_path: Path, nobody: str, photograph: Path) -> None:
    done = command("map", photograph, "--op", "gap2d", "-o", "f.npz", "--address", nobody)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr.startswith(f"poolservice: no server answers at {nobody}")
    assert "0 of 1 files are done" in done.stderr
    other = command("map", photograph, "--op", "gmp2d", "-o", "f.npz")
    assert (other.returncode, other.stderr) == (ALL, "")
