"""`poolservice map`: the feature file that it writes, and its report of the files that fail."""

import csv
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from poolservice_server.testing import Service

Command = Callable[..., CompletedProcess[str]]

ALL, FAILED, USAGE = 0, 1, 2
BROKEN = ("photos/b/cut.jpg", "photos/b/empty.jpg", "photos/b/notes.jpg")


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Ten images of several sizes and formats in nested folders, and three files that are no valid images."""
    random = np.random.default_rng(7)
    paths = []
    for number in range(10):
        path = Path("photos", *("a", "deep")[: number % 3], f"{number:02}.{('jpg', 'png')[number % 2]}")
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20 + number, 31, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / path)
        paths.append(str(path))
    complete = (tmp_path / "photos" / "00.jpg").read_bytes()
    (tmp_path / "photos" / "b").mkdir()
    for name, content in zip(BROKEN, (complete[: len(complete) // 2], b"", b"no image"), strict=True):
        (tmp_path / name).write_bytes(content)
    return paths


def to_tensor(path: Path) -> NDArray[np.float32]:
    """Return an image as torchvision's ToTensor does."""
    with Image.open(path) as image:
        return np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.float32), -1, 0) / np.float32(255)


def means(folder: Path, paths: list[str]) -> NDArray[Any]:
    return np.stack([to_tensor(folder / path).mean((1, 2), dtype=np.float64) for path in paths])


def stdout_of(done: "CompletedProcess[str]") -> str:
    assert (done.returncode, done.stderr) == (ALL, "")
    return done.stdout


def test_images_become_rows_and_broken_files_are_reported(command: Command, tmp_path: Path, images: list[str]) -> None:
    done = command("map", "photos/**/*.jpg", "photos/**/*.png", "--op", "gap2d", "-o", "f.npz", "--failures", "bad.csv")
    assert done.returncode == FAILED
    assert done.stdout.startswith("10 of 13 files -> f.npz: features (3,) float32 per file; ")
    with np.load(tmp_path / "f.npz") as arrays:
        assert sorted(arrays) == ["features", "paths"]
        paths, features = arrays["paths"].tolist(), arrays["features"]
    # The files of each pattern are sorted by name.
    jpegs, pngs = (sorted(path for path in images if path.endswith(kind)) for kind in ("jpg", "png"))
    assert paths == jpegs + pngs
    np.testing.assert_allclose(features, means(tmp_path, paths), rtol=1e-6)
    first, *reported = done.stderr.splitlines()
    assert first == "poolservice: 3 of 13 files failed; bad.csv lists them"
    assert [line.strip().split(": ")[0] for line in reported] == list(BROKEN)
    with (tmp_path / "bad.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["path"] for row in listed] == list(BROKEN)
    assert "JPEG" in listed[2]["reason"]
    assert not (tmp_path / "f.npz.partial").exists()


def test_an_npy_file_can_be_memory_mapped_and_has_a_list_of_paths(
    command: Command, tmp_path: Path, images: list[str]
) -> None:
    paths = sorted(images)
    stdout_of(command("map", *paths, "--op", "adaptive_max2d:output_size=3x2", "--tensors", "-o", "f.npy"))
    features = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert isinstance(features, np.memmap)
    assert (features.shape, features.dtype) == ((10, 3, 3, 2), np.float32)
    assert (tmp_path / "f.paths.txt").read_text().splitlines() == paths
    for row, path in zip(features, paths, strict=True):
        np.testing.assert_array_equal(row, _adaptive_max(to_tensor(tmp_path / path), (3, 2)))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["f.npy", "f.paths.txt", "photos"]


def _adaptive_max(x: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    (_, height, width), (rows, columns) = x.shape, size
    pooled = np.empty((x.shape[0], rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * height // rows : -(-(i + 1) * height // rows)]
            pooled[:, i, j] = window[:, :, j * width // columns : -(-(j + 1) * width // columns)].max((1, 2))
    return pooled


def test_a_parquet_file_has_paths_and_vectors(command: Command, tmp_path: Path, images: list[str]) -> None:
    paths = images[:6]
    stdout_of(command("map", *paths, "--op", "gap2d", "--op", "gmp2d", "--normalize", "-o", "f.parquet"))
    table = parquet.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["path", "global_avg2d", "global_max2d"]
    assert str(table.schema.field("global_avg2d").type) == "fixed_size_list<element: float>[3]"
    assert table["path"].to_pylist() == paths
    averages = means(tmp_path, paths)
    expected = averages / np.linalg.norm(averages, axis=1, keepdims=True)
    np.testing.assert_allclose(np.stack(table["global_avg2d"].to_pylist()), expected, rtol=1e-5)
    largest = np.stack([to_tensor(tmp_path / path).max((1, 2)) for path in paths])
    expected = largest / np.linalg.norm(largest, axis=1, keepdims=True)
    np.testing.assert_allclose(np.stack(table["global_max2d"].to_pylist()), expected, rtol=1e-5)


def test_several_operators_and_indices_become_named_arrays(command: Command, tmp_path: Path) -> None:
    maps = np.random.default_rng(3).standard_normal((4, 2, 6, 6)).astype(np.float32)
    for number, x in enumerate(maps):
        np.save(tmp_path / f"{number}.npy", x)
    operators = ["--op", "max2d:return_indices=true", "--op", "max2d", "--kernel-size", 6]
    stdout_of(command("map", "?.npy", *operators, "-o", "f.npz"))
    with np.load(tmp_path / "f.npz") as arrays:
        assert sorted(arrays) == ["max2d", "max2d_2", "max2d_indices", "paths"]
        np.testing.assert_array_equal(arrays["max2d"], maps.max((2, 3)))
        np.testing.assert_array_equal(arrays["max2d_2"], maps.max((2, 3)))
        np.testing.assert_array_equal(arrays["max2d_indices"].reshape(4, 2), maps.reshape(4, 2, 36).argmax(2))
    stdout_of(command("map", "?.npy", "--op", "gmp2d", "--float16", "-o", "f.npy"))
    features = np.load(tmp_path / "f.npy")
    assert features.dtype == np.float16
    np.testing.assert_array_equal(features, maps.max((2, 3)).astype(np.float16))


def test_rows_keep_the_files_order_when_files_fail(command: Command, tmp_path: Path, images: list[str]) -> None:
    np.save(tmp_path / "x.npy", np.full((3, 4, 4), 0.25, np.float32))
    np.save(tmp_path / "other.npy", np.zeros((5, 4, 4), np.float32))
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    files = ["torn.npy", "x.npy", images[0], "missing.jpg", "other.npy", "gone.npy", images[1], "x.npy", "torn.npy"]
    done = command("map", *files, "--op", "gap2d", "-o", "f.npz", "--json")
    assert done.returncode == FAILED
    report = json.loads(done.stdout)
    assert {one["path"]: one["reason"].split(":")[0].split(" (EOF")[0] for one in report["failures"]} == {
        "torn.npy": "this .npy file cannot be read",
        "missing.jpg": "No such file or directory",
        "other.npy": "its result is (5,) float32 but the first file's is (3,) float32, and all rows of an array must "
        "agree; for images of different sizes, use a global or adaptive operator",
        "gone.npy": "No such file or directory",
    }
    assert (report["rows"], report["arrays"]) == (3, {"features": "(3,) float32"})
    with np.load(tmp_path / "f.npz") as arrays:
        assert arrays["paths"].tolist() == ["x.npy", images[0], images[1]]
        np.testing.assert_array_equal(arrays["features"][0], np.full(3, 0.25, np.float32))
        np.testing.assert_allclose(arrays["features"][1:], means(tmp_path, images[:2]), rtol=1e-6)


def test_paths_are_read_from_lists(command: Command, tmp_path: Path, images: list[str]) -> None:
    (tmp_path / "list.txt").write_text(f"{images[2]}\n\n{images[1]}\n")
    stdin = f"{images[0]}\n{images[1]}".encode()
    arguments = ["--op", "gap2d", "-o", "f.npz", "--from-file", "list.txt", "--from-file", "-"]
    stdout_of(command("map", images[2], *arguments, stdin=stdin))
    with np.load(tmp_path / "f.npz") as arrays:
        assert arrays["paths"].tolist() == [images[2], images[1], images[0]]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_a_file_name_may_have_any_bytes(command: Command, tmp_path: Path, images: list[str]) -> None:
    odd = os.fsdecode(b"photos/\xff.jpg")
    (tmp_path / images[0]).rename(tmp_path / odd)
    expected = means(tmp_path, [odd])
    for name in ("f.npz", "f.npy", "f.parquet"):
        stdout_of(command("map", "photos/?.jpg", "--op", "gap2d", "-o", name))
    with np.load(tmp_path / "f.npz") as arrays:
        assert arrays["paths"].tolist() == [r"photos/\xff.jpg"]
        np.testing.assert_allclose(arrays["features"], expected, rtol=1e-6)
    assert (tmp_path / "f.paths.txt").read_text() == "photos/\\xff.jpg\n"


def test_no_file_is_written_if_every_file_fails(command: Command, tmp_path: Path, images: list[str]) -> None:
    done = command("map", "photos/b/*.jpg", "--op", "gap2d", "-o", "f.npz")
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr.startswith("poolservice: 3 of 3 files failed, so f.npz is not written\n")
    assert [one.name for one in tmp_path.iterdir()] == ["photos"]


def test_many_failures_are_counted_and_ten_are_printed(command: Command, tmp_path: Path, images: list[str]) -> None:
    missing = [f"missing-{number}.jpg" for number in range(15)]
    done = command("map", images[0], *missing, "--op", "gap2d", "-o", "f.npz", "--quiet")
    assert (done.returncode, done.stdout) == (FAILED, "")
    first, *printed, last = done.stderr.splitlines()
    assert first == "poolservice: 15 of 16 files failed"
    assert printed == [f"  {path}: No such file or directory" for path in missing[:10]]
    assert last == "  and 5 more; give --failures FILE to list them"


def test_a_terminal_gets_a_progress_bar(server_address: str, tmp_path: Path, images: list[str]) -> None:
    arguments = [*images, BROKEN[1], "--op", "gap2d", "-o", "f.npz", "--address", server_address]
    for flags, drawn in (([], True), (["--quiet"], False)):
        terminal, stderr = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "poolservice_client", "map", *arguments, *flags],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
        )
        os.close(stderr)
        output = b""
        # At the end of its input, reading a terminal returns nothing, or raises on Linux.
        try:
            while chunk := os.read(terminal, 4096):
                output += chunk
        except OSError:
            assert sys.platform == "linux"
        os.close(terminal)
        assert process.wait(30) == FAILED
        assert (b"11/11" in output) is drawn
        assert (b"/s" in output) is drawn
        assert b"1 of 11 files failed" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.jpg", "--op", "max2", "-o", "f.npz"], "no operator 'max2'"),
        (
            ["x.jpg", "--op", "gap2d", "-o", "f.npz", "--failures", "no/such/f.csv"],
            "--failures no/such/f.csv: there is no folder no/such",
        ),
        (["x.jpg", "--op", "gap2d", "-o", "f.png"], "-o f.png: the file's name must end in .npz, .npy or .parquet"),
        (["x.jpg", "--op", "gap2d", "--op", "gmp2d", "-o", "f.npy"], "2 results do not fit one array"),
        (["x.jpg", "--op", "max2d:kernel_size=2,return_indices=true", "-o", "f.npy"], "2 results do not fit"),
        (["x.jpg", "--op", "gap2d", "--tensors", "-o", "f.parquet"], "leave --tensors out"),
        (["x.jpg", "--op", "gap2d", "--tensors", "--normalize", "-o", "f.npz"], "leave --tensors out"),
        (["x.jpg", "--op", "gap2d", "-o", "no/such/f.npz"], "there is no folder no/such"),
        (["--op", "gap2d", "-o", "f.npz"], "no files are given"),
        (["none/**/*.jpg", "--op", "gap2d", "-o", "f.npz"], "no file matches none/**/*.jpg"),
        ([".", "--op", "gap2d", "-o", "f.npz"], ". is a folder; quote a pattern for the files in it: '**/*.jpg'"),
        (["two\nlines.jpg", "--op", "gap2d", "-o", "f.npy"], "has a line break; write an .npz file"),
        (["x.jpg", "--op", "gap2d", "--op", "gap3d", "-o", "f.npz"], "--op gap3d pools 3-D inputs"),
    ],
)
def test_a_usage_error_is_reported_before_anything_is_done(
    entry_point: Command, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = entry_point("map", *arguments)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr.startswith("poolservice: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_parquet_file_needs_pyarrow(entry_point: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    done = entry_point("map", "x.jpg", "--op", "gap2d", "-o", "f.parquet")
    assert done.returncode == FAILED
    assert done.stderr == ("poolservice: -o f.parquet needs pyarrow; install it with: pip install pyarrow\n")


def test_arrays_may_have_their_channels_last(tmp_path: Path, command: Command) -> None:
    pixels = np.random.default_rng(1).random((20, 30, 3), np.float32)
    np.save(tmp_path / "x.npy", pixels)
    arguments = ("map", "x.npy", "--op", "gap2d", "-o", "f.npz")
    # The tests of the command turn warnings into errors by default.
    warned = command(*arguments, PYTHONWARNINGS="default")
    assert warned.returncode == ALL
    assert "poolservice: a tensor of shape (20, 30, 3) is pooled as 20 channels of 30 x 3" in warned.stderr
    assert "pass --layout HWC" in warned.stderr
    stdout_of(command(*arguments, "--layout", "HWC", "--quiet"))
    features = np.load(tmp_path / "f.npz")["features"]
    np.testing.assert_allclose(features, pixels.mean((0, 1))[None], rtol=1e-5)


def test_a_quota_of_the_server_slows_a_run_down_and_fails_no_file(
    offline: Command, start_server: Callable[..., Service], tmp_path: Path
) -> None:
    (tmp_path / "arrays").mkdir()
    for number in range(300):
        # Arrays of different shapes, which cannot be sent as one request.
        np.save(tmp_path / "arrays" / f"{number:03}.npy", np.full((1, 2, 2 + number), number, np.float32))
    address = start_server("--caller-max-requests", "3").address
    stdout_of(offline("map", "arrays/*.npy", "--op", "gap2d", "-o", "f.npy", "--quiet", "--address", address))
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), np.arange(300, dtype=np.float32)[:, None])
