"""Operators with tensors of their own on the command line, which reads them from .npy files."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from tests.layers.test_every_layer import pooled

from poolservice.specs import MaskedAvgPool1d, MaskedAvgPool2d, PoolSpec, RoIAlign2d

Command = Callable[..., CompletedProcess[str]]

FAILED, USAGE = 1, 2
BOXES = np.array([[0.0, 1.0, 5.0, 6.0], [2.0, 2.0, 7.0, 4.0]])
X = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the files that the commands read, and make their folder the current one."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("boxes.npy", BOXES)
    np.save("numbered.npy", np.ones((2, 5)))
    np.save("mask.npy", np.eye(8, dtype=bool))
    np.save("small.npy", np.eye(7))
    np.save("words.npy", np.array(["a", "b"]))
    np.save("nan.npy", np.full((1, 4), np.nan))
    np.savez("several.npz", BOXES)
    np.save("objects.npy", np.array([None, {}]), allow_pickle=True)
    Path("text.npy").write_text("1 2 3 4")
    Path("empty.npy").touch()


@pytest.mark.parametrize(
    ("operator", "spec"),
    [
        ("roi_align2d:boxes=boxes.npy,output_size=2x3", RoIAlign2d(BOXES, (2, 3))),
        (
            "RoIAlign2d:boxes=boxes.npy,output_size=2,aligned=true,spatial_scale=0.5",
            RoIAlign2d(BOXES, 2, 0.5, -1, True),
        ),
        ("masked_avg2d:mask=mask.npy", MaskedAvgPool2d(np.eye(8, dtype=bool))),
    ],
)
def test_a_parameter_is_read_from_a_file(command: Command, operator: str, spec: PoolSpec) -> None:
    done = command("pool", "x.npy", "--op", operator, "-o", "out.npy")
    assert done.returncode == 0, done.stderr
    assert np.load("out.npy").tobytes() == pooled(spec, X[None])[0].tobytes()


def test_a_length_is_written_as_a_number(command: Command) -> None:
    np.save("sequence.npy", X[0])
    done = command("pool", "sequence.npy", "--op", "masked_avg1d:lengths=5", "-o", "out.npy")
    assert done.returncode == 0, done.stderr
    assert np.load("out.npy").tobytes() == pooled(MaskedAvgPool1d(lengths=5), X[:1])[0].tobytes()


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        ("roi_align2d", ["roi_align2d needs boxes: write --op roi_align2d:boxes=FILE.npy"]),
        ("roi_align2d:boxes=boxes.npy", ["roi_align2d needs output_size: give --output-size 2"]),
        ("roi_align2d:output_size=2,boxes=no.npy", ["boxes takes the name of a .npy file", "No such file", "no.npy"]),
        ("roi_align2d:output_size=2,boxes=.", ["boxes takes the name of a .npy file", "this is a folder"]),
        ("roi_align2d:output_size=2,boxes=", ["boxes takes the name of a .npy file"]),
        ("roi_align2d:output_size=2,boxes=several.npz", ["boxes takes the name of a .npy file", "several arrays"]),
        ("roi_align2d:output_size=2,boxes=empty.npy", ["boxes takes the name of a .npy file", "the file is empty"]),
        (
            "roi_align2d:output_size=2,boxes=text.npy",
            ["boxes takes the name of a .npy file", "the file is not an .npy file"],
        ),
        (
            "roi_align2d:output_size=2,boxes=objects.npy",
            ["boxes takes the name of a .npy file", "Python objects, which are never"],
        ),
        (
            "roi_align2d:output_size=2,boxes=words.npy",
            ["boxes: must have numbers of a type such as", "got strings"],
        ),
        ("roi_align2d:output_size=2,boxes=nan.npy", ["boxes: must be finite; it has nan at [0, 0]"]),
        ("roi_align2d:output_size=2,boxes=numbered.npy", ["boxes: must be x1, y1, x2, y2, without the number"]),
        ("masked_avg2d", ["masked_avg2d needs mask: write --op masked_avg2d:mask=FILE.npy"]),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(entry_point: Command, operator: str, words: list[str]) -> None:
    done = entry_point("pool", "x.npy", "--op", operator, "-o", "out.npy")
    assert done.returncode == USAGE, done.stderr
    assert done.stderr.startswith("poolservice: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        ("masked_avg2d:mask=small.npy", "mask: must have the spatial shape of the input, [8, 8]; got [7, 7]"),
        ("ps_roi2d:output_size=2,boxes=boxes.npy", "output_size: must divide the number of channels: 2 * 2 = 4 bins"),
    ],
)
def test_a_tensor_that_does_not_suit_the_input_is_refused_by_the_server(
    command: Command, operator: str, reason: str
) -> None:
    done = command("pool", "x.npy", "--op", operator, "-o", "out.npy")
    assert done.returncode == FAILED
    assert done.stderr.startswith(f"poolservice: --op {operator}: {reason}")
    assert done.stderr.count("\n") == 1
