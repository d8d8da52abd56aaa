"""Prints lines and tables, in which no name and no number is cut and untrusted text is escaped."""

from collections.abc import Iterable, Sequence

import typer

from poolservice_server.backbones.folder_files import printable


def print_line(text: str) -> None:
    """Print a line; control characters in it are escaped."""
    typer.echo(printable(text))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a line for each row, with aligned columns; control characters in them are escaped."""
    lines = [tuple(headings), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
