"""Decoding that takes long ends when nobody waits for the image any more."""

from collections.abc import Callable
from io import BytesIO

import pytest
from PIL import Image

from poolservice.errors import InvalidRequest
from poolservice_server.images import decode_cost, decode_scanned, scan
from poolservice_server.stop import WorkStopped

MAX_PIXELS = 50_000_000
SIDE = 4000


def many_scans(count: int) -> bytes:
    """Return a small progressive JPEG in which one scan over 16 megapixels is repeated `count` times."""
    file = BytesIO()
    Image.new("RGB", (SIDE, SIDE), (200, 30, 7)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * count + data[end:]


class StopAfter:
    """A `Stop` that returns True from the given call on."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "bmp"])
def test_long_decoding_stops_between_pieces(kind: str) -> None:
    if kind == "jpeg":
        data = many_scans(60)
    else:
        file = BytesIO()
        Image.effect_noise((SIDE, SIDE), 60).convert("P" if kind == "gif" else "RGB").save(file, kind)
        data = file.getvalue()
    counted = StopAfter(10**9)
    planes = decode_scanned(scan(data, max_pixels=MAX_PIXELS), "RGB", max_pixels=MAX_PIXELS, stop=counted)
    assert planes.shape == (3, SIDE, SIDE)
    calls = 10**9 - counted.left
    assert calls > 8
    for after in (0, 1, calls // 2, calls - 1):
        with pytest.raises(WorkStopped):
            decode_scanned(scan(data, max_pixels=MAX_PIXELS), "RGB", max_pixels=MAX_PIXELS, stop=StopAfter(after))


def test_the_cost_of_a_progressive_jpeg_grows_with_its_scans() -> None:
    steps = [decode_cost(scan(many_scans(count), max_pixels=MAX_PIXELS), "RGB")[0] for count in (0, 40, 80)]
    assert steps[1] - steps[0] > SIDE * SIDE * 40 * 0.3
    assert steps[2] - steps[1] == pytest.approx(steps[1] - steps[0], rel=0.01)


def test_scans_behind_a_hidden_end_of_the_image_are_counted() -> None:
    data = many_scans(100)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    # An end of image inside a comment does not end the image.
    hidden = data[:second] + b"\xff\xfe\x00\x06\xff\xd9\xff\xd9" + data[second:]
    for file in (data, hidden):
        with pytest.raises(InvalidRequest, match="more than 100 scans"):
            scan(file, max_pixels=MAX_PIXELS)


def test_every_scan_has_a_cost_and_a_bound(files: dict[str, bytes], save: Callable[..., bytes]) -> None:
    for name, file in files.items():
        for mode in ("RGB", "GRAY", "RGBA"):
            steps, nbytes = decode_cost(scan(file, max_pixels=MAX_PIXELS), mode)
            assert 60_000 < steps < 10_000_000, name
            assert 67 * 45 <= nbytes < 200_000, name
