"""`poolservice map` resumed after its files, or the journal itself, have changed."""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

Command = Callable[..., CompletedProcess[str]]

ALL, FAILED, USAGE = 0, 1, 2
JOURNAL = "f.npz.partial/journal.jsonl"


@pytest.fixture
def run(entry_point: Command, server_address: str) -> Command:
    """Run `map` in this process."""

    def map_files(*arguments: str, output: str = "f.npz") -> "CompletedProcess[str]":
        return entry_point("map", *arguments, "--op", "gap2d", "-o", output, "--address", server_address)

    return map_files


def write(folder: Path, name: str, value: float) -> None:
    np.save(folder / name, np.full((2, 3, 3), value, np.float32))


@pytest.fixture
def interrupted(tmp_path: Path, run: Command) -> Path:
    """A folder with five files, of which c.npy is broken, and the journal of a run that could not write its result."""
    for value, name in enumerate("abcde"):
        write(tmp_path, f"{name}.npy", value)
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY")
    # A folder at the result's path makes the last step of the run fail, after all files are done.
    (tmp_path / "f.npz").mkdir()
    done = run("?.npy")
    assert (done.returncode, done.stderr) == (FAILED, "poolservice: f.npz: Is a directory\n")
    (tmp_path / "f.npz").rmdir()
    return tmp_path


def rows(folder: Path) -> dict[str, float]:
    """Return the first value of each file's row, in the order of the result."""
    with np.load(folder / "f.npz") as arrays:
        return dict(zip(arrays["paths"].tolist(), arrays["features"][:, 0].tolist(), strict=True))


def destroy(folder: Path, *names: str) -> None:
    """Overwrite files so that size and modification time stay the same: nothing may read them again."""
    for name in names:
        before = (folder / name).stat()
        (folder / name).write_bytes(b"?" * before.st_size)
        os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_vanished_file_keeps_its_row_and_is_reported(run: Command, interrupted: Path) -> None:
    destroy(interrupted, "b.npy", "d.npy", "e.npy")
    (interrupted / "a.npy").unlink()
    done = run("?.npy")
    assert done.returncode == FAILED
    lines = done.stderr.splitlines()
    assert lines[:3] == [
        "poolservice: resuming: 5 of 5 files are already done",
        "poolservice: 1 of the files no longer exist; their rows are kept, and --update drops them; the first is a.npy",
        "poolservice: 1 of 5 files failed",
    ]
    assert lines[3].startswith("  c.npy: this .npy file cannot be read")
    assert rows(interrupted) == {"a.npy": 0, "b.npy": 1, "d.npy": 3, "e.npy": 4}


def test_a_file_that_vanished_before_it_was_pooled_fails(run: Command, interrupted: Path) -> None:
    # A second interrupted run drops the row of b.npy, so that no run has pooled the file when it is given again.
    (interrupted / "b.npy").unlink()
    (interrupted / "f.npz").mkdir()
    assert run("?.npy", "--update").returncode == FAILED
    (interrupted / "f.npz").rmdir()
    done = run("?.npy", "b.npy", "--update")
    assert "  b.npy: No such file or directory\n" in done.stderr
    assert rows(interrupted) == {"a.npy": 0, "d.npy": 3, "e.npy": 4}


def test_a_changed_file_is_pooled_again_and_reported(run: Command, interrupted: Path) -> None:
    destroy(interrupted, "a.npy", "e.npy")
    # The same size with another time, another size with the same time, and a broken file that was repaired.
    write(interrupted, "b.npy", 10)
    os.utime(interrupted / "b.npy", ns=(1, 1))
    before = (interrupted / "d.npy").stat()
    np.save(interrupted / "d.npy", np.full((2, 4, 4), 30, np.float32))
    os.utime(interrupted / "d.npy", ns=(before.st_atime_ns, before.st_mtime_ns))
    write(interrupted, "c.npy", 20)
    done = run("?.npy", "--json")
    assert done.returncode == ALL
    assert done.stderr == (
        "poolservice: resuming: 2 of 5 files are already done\n"
        "poolservice: 3 of the files changed since they were pooled, and are pooled again; the first is b.npy\n"
    )
    report = json.loads(done.stdout)
    assert (report["rows"], report["changed"], report["vanished"]) == (5, ["b.npy", "c.npy", "d.npy"], [])
    assert rows(interrupted) == {"a.npy": 0, "b.npy": 10, "c.npy": 20, "d.npy": 30, "e.npy": 4}


def test_other_files_need_update(run: Command, interrupted: Path) -> None:
    write(interrupted, "f.npy", 5)
    write(interrupted, "g.npy", 6)
    done = run("?.npy")
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr == (
        "poolservice: f.npy is not among the files of the run in f.npz.partial (the same applies to 1 more); give "
        "--update to pool new files too, or --restart to start over\n"
    )
    done = run("[a-d].npy")
    assert done.returncode == USAGE
    assert done.stderr == (
        "poolservice: e.npy is not given now, but belongs to the run in f.npz.partial; give it too, or --update to "
        "leave it out, or --restart to start over\n"
    )
    assert run("?.npy", "--update", "--restart").returncode == USAGE


def test_update_pools_new_and_changed_files_and_drops_vanished_ones(run: Command, interrupted: Path) -> None:
    destroy(interrupted, "a.npy", "e.npy")
    write(interrupted, "b.npy", 10)
    os.utime(interrupted / "b.npy", ns=(1, 1))
    (interrupted / "d.npy").unlink()
    write(interrupted, "aa.npy", 7)
    done = run("*.npy", "--update")
    assert done.returncode == FAILED
    assert done.stderr.startswith("poolservice: resuming: 3 of 5 files are already done\n")
    assert "poolservice: 1 of 5 files failed\n" in done.stderr
    assert rows(interrupted) == {"a.npy": 0, "aa.npy": 7, "b.npy": 10, "e.npy": 4}


def test_the_results_follow_the_order_in_which_the_files_are_given_now(run: Command, interrupted: Path) -> None:
    destroy(interrupted, "a.npy", "b.npy", "d.npy", "e.npy")
    done = run("e.npy", "d.npy", "c.npy", "b.npy", "a.npy")
    assert done.returncode == FAILED
    assert list(rows(interrupted).items()) == [("e.npy", 4), ("d.npy", 3), ("b.npy", 1), ("a.npy", 0)]


def test_rows_of_another_shape_replace_all_earlier_rows(run: Command, interrupted: Path) -> None:
    for name in "abcde":
        np.save(interrupted / f"{name}.npy", np.full((7, 3, 3), 1, np.float32))
    done = run("?.npy")
    assert done.returncode == ALL
    with np.load(interrupted / "f.npz") as arrays:
        assert arrays["features"].shape == (5, 7)


def test_a_resumed_run_does_not_change_a_complete_file_that_shares_its_rows(
    run: Command, interrupted: Path, tmp_path: Path
) -> None:
    # An .npy file may be a hard link to the journal's rows, if the run ended before the journal was removed.
    partial = interrupted / "f.npz.partial"
    (tmp_path / "complete.npy").hardlink_to(partial / "features.npy")
    complete = (tmp_path / "complete.npy").read_bytes()
    write(interrupted, "g.npy", 6)
    (interrupted / "f.npz").mkdir()
    assert run("?.npy", "--update").returncode == FAILED
    assert (tmp_path / "complete.npy").read_bytes() == complete


def _future(data: bytes) -> bytes:
    header, *lines = data.splitlines(keepends=True)
    text = header.partition(b" ")[2].rstrip().replace(b'"version": 2', b'"version": 3')
    return b"".join([b"%08x %b\n" % (zlib.crc32(text), text), *lines])


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("journal.jsonl", lambda data: b"", "f.npz.partial/journal.jsonl has lost its first line"),
        ("journal.jsonl", lambda data: data[:10], "f.npz.partial/journal.jsonl has lost its first line"),
        ("journal.jsonl", lambda data: bytes(len(data)), "f.npz.partial/journal.jsonl has lost its first line"),
        ("journal.jsonl", lambda data: b"\n\n", "f.npz.partial/journal.jsonl is damaged in line 1"),
        (
            "journal.jsonl",
            lambda data: data.replace(b"float32", b"float64"),
            "f.npz.partial/journal.jsonl is damaged in line 2",
        ),
        ("journal.jsonl", _future, "f.npz.partial was begun by a newer version of poolservice"),
        ("features.npy", lambda data: b"", "f.npz.partial/features.npy is damaged"),
        ("features.npy", lambda data: bytes(len(data)), "f.npz.partial/features.npy is damaged"),
        ("features.npy", lambda data: data[:-1], "f.npz.partial/features.npy is damaged (rows have changed or are"),
        ("features.npy", lambda data: data[:-1] + b"!", "f.npz.partial/features.npy is damaged (rows have changed"),
        (
            "features.npy",
            lambda data: data.replace(b"<f4", b"<i4"),
            "f.npz.partial/features.npy is damaged (it has rows of (2,) int32, not (2,) float32)",
        ),
    ],
)
def test_a_damaged_journal_is_reported_in_one_sentence(
    run: Command, interrupted: Path, name: str, damage: Callable[[bytes], bytes], words: str
) -> None:
    path = interrupted / "f.npz.partial" / name
    path.write_bytes(damage(path.read_bytes()))
    done = run("?.npy")
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr.startswith(f"poolservice: {words}")
    assert done.stderr.endswith(", so the run cannot be resumed; give --restart to start over\n")
    assert done.stderr.count("\n") == 1
    assert run("?.npy", "--restart").stderr.startswith("poolservice: 1 of 5 files failed")
    assert rows(interrupted) == {"a.npy": 0, "b.npy": 1, "d.npy": 3, "e.npy": 4}


def test_missing_rows_are_reported_in_one_sentence(run: Command, interrupted: Path) -> None:
    (interrupted / "f.npz.partial" / "features.npy").unlink()
    done = run("?.npy")
    assert done.stderr == (
        "poolservice: f.npz.partial/features.npy cannot be read (No such file or directory), so the run cannot be "
        "resumed; give --restart to start over\n"
    )


def test_the_journal_of_an_older_version_is_not_resumed(run: Command, tmp_path: Path) -> None:
    write(tmp_path, "a.npy", 0)
    (tmp_path / "f.npz.partial").mkdir()
    (tmp_path / "f.npz.partial" / "job.json").write_text('{"version": 1}')
    done = run("a.npy")
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr.startswith("poolservice: f.npz.partial was begun by an older version of poolservice, so ")
    assert run("a.npy", "--restart").returncode == ALL


def test_a_cut_journal_is_resumed_from_its_last_complete_line(run: Command, interrupted: Path) -> None:
    write(interrupted, "g.npy", 6)
    (interrupted / "f.npz").mkdir()
    assert run("?.npy", "--update").returncode == FAILED
    (interrupted / "f.npz").rmdir()
    journal = interrupted / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-20] + bytes(20))
    destroy(interrupted, "a.npy", "b.npy", "d.npy", "e.npy")
    done = run("?.npy")
    assert done.stderr.startswith("poolservice: resuming: 5 of 6 files are already done\n")
    assert rows(interrupted) == {"a.npy": 0, "b.npy": 1, "d.npy": 3, "e.npy": 4, "g.npy": 6}


def test_a_symbolic_link_at_the_results_path_stays_one(run: Command, tmp_path: Path) -> None:
    write(tmp_path, "a.npy", 0)
    (tmp_path / "data").mkdir()
    (tmp_path / "f.npz").symlink_to("data/real.npz")
    assert run("a.npy").returncode == ALL
    assert (tmp_path / "f.npz").is_symlink()
    assert rows(tmp_path) == {"a.npy": 0}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["real.npz"]


def test_a_file_in_place_of_the_journal_is_an_error(run: Command, tmp_path: Path) -> None:
    write(tmp_path, "a.npy", 0)
    (tmp_path / "f.npz.partial").write_text("mine")
    for flags in ((), ("--restart",)):
        done = run("a.npy", *flags)
        assert (done.returncode, done.stderr) == (FAILED, "poolservice: f.npz.partial: File exists\n")
    assert (tmp_path / "f.npz.partial").read_text() == "mine"


def test_a_list_with_nul_characters_is_a_usage_error(run: Command, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"a.npy\0b.npy\0")
    done = run("--from-file", "list")
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr == "poolservice: --from-file list: the file has NUL characters; write one path per line\n"
