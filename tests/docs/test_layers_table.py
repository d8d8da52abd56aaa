"""server/LAYERS.md has one row for each layer and each number of dimensions."""

import re
from pathlib import Path

from poolservice.specs import LAYERS

DOCUMENT = Path(__file__).parents[2] / "server" / "LAYERS.md"
# A row of a group: `GeMPool1d/2d/3d` in its first column, and four more.
ROW = re.compile(r"^\| `(?P<name>\w+?)(?P<dims>\dd(?:/\dd)*)` \|(?P<others>(?:[^|\n]+\|){4})$", re.MULTILINE)


def test_the_table_lists_every_layer_once_and_no_other() -> None:
    rows = ROW.finditer(DOCUMENT.read_text())
    listed = [row["name"] + dims for row in rows for dims in row["dims"].split("/")]
    assert sorted(listed) == sorted(layer.__name__ for layer in LAYERS.values())


def test_no_cell_is_empty() -> None:
    for row in ROW.finditer(DOCUMENT.read_text()):
        assert all(cell.strip() for cell in row["others"].removesuffix("|").split("|")), row[0]
