"""Tables for terminals of any width, in which no number and no name is ever cut.

A table that is too wide wraps its text columns between words. If that does not suffice, a table of numbers is
transposed; any other table prints each row as a block of "heading  value" lines. Output that does not go to a terminal
has no limit in width, so that each row is one line for the program that reads it.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import typer

from poolservice_client._cli.message_text import escape

_GAP = "  "
# A narrower text column is hard to read; such a table is printed as blocks.
_MIN_TEXT_WIDTH = 16


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        heading: its heading.
        numeric: whether its cells are aligned to the right.
        wraps: whether its cells are text that may continue on a further line.
    """

    heading: str
    numeric: bool = False
    wraps: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, width: int | None = None) -> None:
    """Print a table in the first of its layouts that fits.

    Args:
        columns: the columns.
        rows: a cell for each column; untrusted text in it is escaped.
        width: characters per line. Default: the terminal's width or COLUMNS; unlimited if stdout is not a terminal.
    """
    cells = [list(map(escape, row)) for row in rows]
    limit = _output_width() if width is None else width
    layouts: list[tuple[Sequence[Column], list[list[str]]]] = [(columns, cells)]
    if all(column.numeric for column in columns):
        layouts.append(_transposed(columns, cells))
    for layout_columns, layout_rows in layouts:
        if widths := _column_widths(layout_columns, layout_rows, limit):
            _print_row(layout_columns, [column.heading for column in layout_columns], widths, bold=True)
            for row in layout_rows:
                _print_row(layout_columns, row, widths)
            return
    _print_blocks(columns, cells, limit)


def print_text(text: str, *, width: int | None = None) -> None:
    """Print a paragraph, wrapped between words at the width of a table; untrusted text in it is escaped."""
    limit = _output_width() if width is None else width
    for line in _wrap(escape(text), limit):
        typer.echo(line)


def _output_width() -> int:
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return sys.maxsize


def _transposed(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> tuple[list[Column], list[list[str]]]:
    """Return the table with one column per row; the first cell of each row becomes a heading."""
    headings = [Column(columns[0].heading), *(Column(row[0], numeric=True) for row in rows)]
    body = [[column.heading, *(row[index] for row in rows)] for index, column in enumerate(columns) if index]
    return headings, body


def _column_widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], limit: int) -> list[int] | None:
    """Return a width for each column, or None if the columns do not fit into `limit` characters."""
    cells = [[column.heading, *(row[index] for row in rows)] for index, column in enumerate(columns)]
    natural = [max(map(len, column_cells)) for column_cells in cells]
    available = limit - len(_GAP) * (len(columns) - 1)
    if sum(natural) <= available:
        return natural
    widths = [
        min(full, max(_MIN_TEXT_WIDTH, *(len(word) for cell in column_cells for word in cell.split())))
        if column.wraps
        else full
        for column, full, column_cells in zip(columns, natural, cells, strict=True)
    ]
    spare = available - sum(widths)
    if spare < 0:
        return None
    missing = sum(natural) - sum(widths)
    # Each text column gets a share of the spare width in proportion to what it lacks.
    return [width + spare * (full - width) // missing for width, full in zip(widths, natural, strict=True)]


def _print_row(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int], *, bold: bool = False) -> None:
    wrapped = [_wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(map(len, wrapped))):
        parts = [lines[number] if number < len(lines) else "" for lines in wrapped]
        aligned = [
            part.rjust(width) if column.numeric else part.ljust(width)
            for column, part, width in zip(columns, parts, widths, strict=True)
        ]
        typer.secho(_GAP.join(aligned).rstrip(), bold=bold or None)


def _print_blocks(columns: Sequence[Column], rows: Sequence[Sequence[str]], limit: int) -> None:
    indent = max(len(column.heading) for column in columns) + len(_GAP)
    for number, row in enumerate(rows):
        if number:
            typer.echo()
        for column, cell in zip(columns, row, strict=True):
            if not cell:
                continue
            lines = _wrap(cell, limit - indent)
            first, *further = lines if len(lines[0]) <= limit - indent else ["", *lines]
            typer.echo(f"{typer.style(column.heading.ljust(indent if first else 0), bold=True)}{first}")
            for line in further:
                # A word that is longer than the rest of the line starts further to the left.
                typer.echo(f"{' ' * min(indent, max(limit - len(line), 0))}{line}")


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]
