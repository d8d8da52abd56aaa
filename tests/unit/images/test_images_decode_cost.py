"""The estimate of what decoding an image costs."""

import zlib
from collections.abc import Callable

import pytest

from poolservice_server.images import decode_cost, scan

WritePng = Callable[..., bytes]
PIXELS = 600_000


@pytest.mark.parametrize("bits", [8, 16])
def test_an_image_of_one_column_costs_a_pointer_and_a_word_per_row(write_png: WritePng, bits: int) -> None:
    def cost(width: int) -> tuple[float, int]:
        rows = PIXELS // width
        pixels = zlib.compress(bytes(rows * (1 + width * bits // 8)))
        return decode_cost(scan(write_png(width, rows, bits, 0, pixels), max_pixels=PIXELS), "GRAY")

    column, square = cost(1), cost(600)
    assert column[0] > square[0]
    assert column[1] > square[1] + PIXELS * 8
