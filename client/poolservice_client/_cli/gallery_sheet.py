"""The sheet of the gallery: groups of tiles with headings and captions, drawn with Pillow."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from poolservice_client._cli.gallery_tiles import TILE, Tile

_COLUMNS = 6
_MARGIN = 24
_GAP = 18
_CAPTION_SIZE = 11
_LINE = 14
_HEADING_SIZE = 18
_TITLE_SIZE = 24
_MAX_CAPTION_LINES = 4
_PAPER, _INK, _GRAY, _RED = (255, 255, 255), (30, 30, 30), (110, 110, 110), (170, 40, 50)
_REASON = (250, 240, 240)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Result(NamedTuple):
    """The result of a layer, or the reason why there is none.

    Attributes:
        caption: the layer with its parameters.
        content: the tile, or the reason.
    """

    caption: str
    content: Tile | str


class Group(NamedTuple):
    """The results under one heading."""

    heading: str
    results: Sequence[Result]


class _Cell(NamedTuple):
    image: Image.Image
    caption: list[str]
    note: list[str]


def draw(title: str, groups: Sequence[Group], footers: Sequence[str]) -> Image.Image:
    """Return the sheet.

    Args:
        title: the line at the top.
        groups: the results, in rows of equal tiles.
        footers: the paragraphs at the bottom.
    """
    width = 2 * _MARGIN + _COLUMNS * TILE + (_COLUMNS - 1) * _GAP
    font = ImageFont.load_default(_CAPTION_SIZE)
    headings, titles = ImageFont.load_default(_HEADING_SIZE), ImageFont.load_default(_TITLE_SIZE)
    rows = [
        (group.heading if start == 0 else "", [_cell(one, font) for one in group.results[start : start + _COLUMNS]])
        for group in groups
        for start in range(0, len(group.results), _COLUMNS)
    ]
    paragraphs = [_wrapped(footer, font, width - 2 * _MARGIN) for footer in footers]
    height = 2 * _MARGIN + 2 * _TITLE_SIZE + sum(_row_height(*row) for row in rows)
    height += sum((len(lines) + 1) * _LINE for lines in paragraphs)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), _wrapped(title, titles, width - 2 * _MARGIN, 1)[0], _INK, titles)
    top = _MARGIN + 2 * _TITLE_SIZE
    for heading, cells in rows:
        if heading:
            pen.text((_MARGIN, top), heading, _INK, headings)
            below = top + _HEADING_SIZE + 7
            pen.line((_MARGIN, below, width - _MARGIN, below), _GRAY)
        _draw_row(sheet, top + _heading_height(heading), cells, font)
        top += _row_height(heading, cells)
    for lines in paragraphs:
        _write(pen, (_MARGIN, top), lines, _GRAY, font)
        top += (len(lines) + 1) * _LINE
    return sheet


def _cell(result: Result, font: _Font) -> _Cell:
    caption = _wrapped(result.caption, font, TILE, _MAX_CAPTION_LINES)
    if isinstance(result.content, Tile):
        return _Cell(result.content.image, caption, _wrapped(result.content.note, font, TILE, 2))
    lines = _wrapped(result.content, font, TILE - 12, (TILE - 12) // _LINE)
    image = Image.new("RGB", (TILE, len(lines) * _LINE + 12), _REASON)
    _write(ImageDraw.Draw(image), (6, 6), lines, _RED, font)
    return _Cell(image, caption, [])


def _draw_row(sheet: Image.Image, top: int, cells: Sequence[_Cell], font: _Font) -> None:
    pen = ImageDraw.Draw(sheet)
    tallest = _tallest(cells)
    for column, cell in enumerate(cells):
        left = _MARGIN + column * (TILE + _GAP)
        sheet.paste(cell.image, (left, top + tallest - cell.image.height))
        _write(pen, (left, top + tallest + 5), cell.caption, _INK, font)
        _write(pen, (left, top + tallest + 5 + len(cell.caption) * _LINE), cell.note, _GRAY, font)


def _row_height(heading: str, cells: Sequence[_Cell]) -> int:
    lines = max(len(cell.caption) + len(cell.note) for cell in cells)
    return _heading_height(heading) + _tallest(cells) + lines * _LINE + 5 + _GAP


def _heading_height(heading: str) -> int:
    return _HEADING_SIZE + 19 if heading else 0


def _tallest(cells: Sequence[_Cell]) -> int:
    return max(cell.image.height for cell in cells)


def _write(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str], color: tuple[int, int, int], font: _Font
) -> None:
    for number, line in enumerate(lines):
        pen.text((at[0], at[1] + number * _LINE), line, color, font)


def _wrapped(text: str, font: _Font, width: int, most: int | None = None) -> list[str]:
    """Return text as lines of at most `width` pixels; after `most` lines, an ellipsis stands for the rest."""
    lines = [""]
    for word in text.replace("(", "( ").split():
        joined = lines[-1] + word if lines[-1].endswith("(") else f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        rest = word
        lines += [""] if lines[-1] else []
        # A word that is longer than a line is cut.
        while font.getlength(rest) > width:
            count = next(end for end in range(len(rest), 0, -1) if font.getlength(rest[:end]) <= width or end == 1)
            lines[-1] = rest[:count]
            lines.append("")
            rest = rest[count:]
        lines[-1] = rest
    if most is None or len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.getlength(f"{last}...") > width:
        last = last[:-1]
    return [*lines[: most - 1], f"{last}..."]
