"""Tables of any width: no word of a cell is ever cut."""

import contextlib
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolservice_client._cli.tables import Column, print_table

TEXT = Column("what it does", wraps=True)
NUMBERS = (Column("concurrency", numeric=True), Column("calls/s", numeric=True), Column("p99", numeric=True))
ROWS = [["1", "1,089.5", "12.25"], ["32", "98,765,432", "0.5"]]


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_a_table_that_fits_has_a_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(NUMBERS, ROWS, width=40)
    assert printed(capsys).splitlines() == [
        "concurrency     calls/s    p99",
        "          1     1,089.5  12.25",
        "         32  98,765,432    0.5",
    ]


def test_a_table_of_numbers_that_is_too_wide_is_transposed(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column(heading, numeric=True) for heading in ("concurrency", "calls/s", "p50", "p99", "errors")]
    print_table(columns, [["1", "1,089", "2.25", "12.25", "0"], ["32", "98,765", "0.5", "0.75", "7"]], width=30)
    assert printed(capsys).splitlines() == [
        "concurrency      1      32",
        "calls/s      1,089  98,765",
        "p50           2.25     0.5",
        "p99          12.25    0.75",
        "errors           0       7",
    ]


def test_a_text_column_wraps_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_table((Column("name"), TEXT), [["gap2d", "The mean of each channel."]], width=24)
    assert printed(capsys).splitlines() == ["name   what it does", "gap2d  The mean of each", "       channel."]


def test_a_table_that_fits_in_no_other_layout_becomes_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    print_table((Column("name"), TEXT), [["gap2d", "The mean of each channel."], ["max2d", ""]], width=20)
    assert printed(capsys).splitlines() == [
        "name          gap2d",
        "what it does  The",
        "              mean",
        "              of",
        "              each",
        "            channel.",
        "",
        "name          max2d",
    ]


@given(
    rows=st.lists(st.tuples(*[st.integers(0, 10**12).map("{:,}".format)] * 3), min_size=1, max_size=4),
    width=st.integers(1, 60),
)
def test_no_number_is_cut_at_any_width(rows: list[tuple[str, str, str]], width: int) -> None:
    # hypothesis calls this many times, which pytest's own capture fixture does not support.
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        print_table(NUMBERS, rows, width=width)
    numbers = re.findall(r"\d[\d,]*", output.getvalue().replace("p99", ""))
    assert sorted(numbers) == sorted(number for row in rows for number in row)
