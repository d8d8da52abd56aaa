"""`poolservice gallery`: a sheet with every layer of a server, and its errors."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from poolservice.specs import OPERATORS
from poolservice_client._cli.gallery_table import GALLERY
from poolservice_client._cli.gallery_tiles import TILE, draw

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def photo(tmp_path: Path) -> str:
    """A small image with edges and colors in the folder of the test."""
    rows, columns = np.mgrid[0:48, 0:64]
    pixels = np.stack([rows * 5, columns * 3, (rows // 6 + columns // 6) % 2 * 200], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return "photo.png"


def test_the_gallery_has_every_operator_of_the_contract() -> None:
    assert set(GALLERY) == set(OPERATORS)


def test_every_layer_of_the_server_is_drawn_and_the_sheet_is_always_the_same(
    command: Command, photo: str, tmp_path: Path
) -> None:
    done = command("gallery", photo, "-o", "sheet.png", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["operators"]["shown"] == [name for name in GALLERY if name not in report["operators"]["other_dims"]]
    assert not report["operators"]["lacking"]
    # The server of the tests has no pool heads.
    assert [one["layer"] for one in report["layers"] if one["reason"]] == ["PoolHead2d"]
    assert command("gallery", photo, "-o", "again.png").returncode == 0
    assert (tmp_path / "sheet.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 6 * TILE


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["photo.png", "-o", "sheet.jpg"], 2, "the file's name must end in .png"),
        (["photo.png", "-o", "no/sheet.png"], 2, "there is no folder no"),
        (["missing.png", "-o", "sheet.png"], 1, "missing.png: No such file"),
        (["x.npy", "-o", "sheet.png"], 1, "x.npy: a gallery needs an image"),
        (["text.png", "-o", "sheet.png"], 1, "text.png: not an image"),
        (["photo.png", "-o", "sheet.png", "--tap", "a"], 2, "give --backbone too"),
        (["photo.png", "-o", "sheet.png", "--backbone", "none"], 1, "--backbone: "),
    ],
)
def test_an_error_is_a_sentence(
    command: Command, photo: str, tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 4, 4), np.float32))
    (tmp_path / "text.png").write_text("text")
    done = command("gallery", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert words in done.stderr
    assert not (tmp_path / "sheet.png").exists()


def test_few_values_become_squares_and_values_beyond_the_colors_are_stretched() -> None:
    values = np.array([[[0.0, 1.0], [2.0, 4.0]]] * 3, np.float32)
    tile = draw(values, 3, colored=True)
    assert tile.image.size == (TILE, TILE)
    assert tile.note == "3 x 2 x 2, 0 to 4"
    pixels = np.asarray(tile.image)
    assert np.unique(pixels).tolist() == [0, 64, 128, 255]


def test_a_vector_becomes_bars_and_not_a_number_is_gray() -> None:
    tile = draw(np.array([1.0, np.nan, -1.0, 0.5], np.float32), 4, colored=False)
    assert tile.note == "4, -1 to 1"
    assert (214, 214, 214) in {color for _, color in tile.image.getcolors() or []}
