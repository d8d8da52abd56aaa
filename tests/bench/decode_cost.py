"""Compare the estimates of `decode_cost` with the measured time and peak memory of decoding random image files.

    python tests/bench/decode_cost.py [--cases N] [--seed S] [--all]

See `estimates` for how the files are measured and when the command exits with 1.
"""

import sys
from collections.abc import Iterator
from functools import partial

from estimates import Estimate, compare
from poolservice_server.images import decode_cost, decode_scanned, scan
from random_images import ImageCase, random_images

_MAX_PIXELS = 10**9


def _estimates(seed: int) -> Iterator[Estimate]:
    for case in random_images(seed):
        steps, peak = decode_cost(scan(case.file, max_pixels=_MAX_PIXELS), case.mode)
        yield Estimate(case.name, partial(_decode, case), steps, peak, len(case.file))


def _decode(case: ImageCase) -> None:
    decode_scanned(scan(case.file, max_pixels=_MAX_PIXELS), case.mode, max_pixels=_MAX_PIXELS)


if __name__ == "__main__":
    sys.exit(compare(__file__, __doc__.partition("\n")[0], _estimates, 1000))
