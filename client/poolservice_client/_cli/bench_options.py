"""The options of `poolservice bench`, and the checks that typer does not make."""

import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from poolservice.dtypes import DTYPE_NAMES
from poolservice_client._cli.bench_knee import CAPACITY_CONCURRENCY, SWEEP
from poolservice_client._cli.bench_workload import DEFAULT_SHAPE
from poolservice_client._cli.exit_errors import UsageError

# More calls per second than one Python process can make.
_MAX_RATE = 100_000
# A day in milliseconds.
_MAX_P99 = 86_400_000

_MAX_OUTSTANDING = 1000
# Each call in flight has a copy of the payload in its message.
_MAX_OUTSTANDING_BYTES = 256 * 2**20


class Arrivals(StrEnum):
    """When the calls of a rate start."""

    POISSON = "poisson"
    CONSTANT = "constant"


InputFile = Annotated[
    str | None,
    typer.Option("--input", "-i", metavar="FILE", help="Send this image or .npy file instead of random values."),
]
Shape = Annotated[
    str | None,
    typer.Option(
        metavar="CxHxW", help=f"The random tensor's shape. Default: {DEFAULT_SHAPE}, or the backbone's input."
    ),
]
Dtype = Annotated[
    str | None, typer.Option(metavar="DTYPE", help=f"The random tensor's dtype: {', '.join(DTYPE_NAMES)}.")
]
Features = Annotated[bool, typer.Option("--features", help="Request flat feature vectors, not tensors.")]
Concurrency = Annotated[
    list[int] | None,
    typer.Option(
        "--concurrency",
        "-c",
        metavar="CALLS",
        min=1,
        help="The number of concurrent calls. Repeat for more rows. Default: 1, 8 and 32.",
    ),
]
Rate = Annotated[
    list[float] | None,
    typer.Option(
        "--rate",
        "-r",
        metavar="CALLS",
        min=0.01,
        max=_MAX_RATE,
        help="Start so many calls per second, whether or not earlier ones have returned. Repeat for more rows.",
    ),
]
Sweep = Annotated[
    bool,
    typer.Option(
        "--sweep",
        help=f"Measure {len(SWEEP)} rates, from {SWEEP[0]:.0%} to {SWEEP[-1]:.0%} of what {CAPACITY_CONCURRENCY} "
        "concurrent calls reach, and find the knee.",
    ),
]
ArrivalsOption = Annotated[
    Arrivals,
    typer.Option("--arrivals", help="When the calls of a rate start: at random (poisson), or at equal intervals."),
]
MaxOutstanding = Annotated[
    int | None,
    typer.Option(
        metavar="CALLS",
        min=1,
        help="The largest number of calls of a rate in flight; calls above it are counted, but not started. "
        f"Default: {_MAX_OUTSTANDING:,}, or fewer so that their payloads take at most 256 MiB.",
    ),
]
P99 = Annotated[
    float | None,
    typer.Option(
        "--p99",
        metavar="MILLISECONDS",
        min=0.001,
        max=_MAX_P99,
        help="The longest p99 latency at the knee. Default: 10 times the p50 at the lowest rate.",
    ),
]
Duration = Annotated[float, typer.Option(metavar="SECONDS", min=0.01, help="The duration of each row.")]
WarmUp = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="The time before each row that is not measured.")]
NoCoalesce = Annotated[bool, typer.Option("--no-coalesce", help="Send each small call in a message of its own.")]
ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Draw latency, throughput and the parts of the latency over the load, as .html (one file that needs "
        "nothing else) or .png (needs matplotlib).",
    ),
]


def check_input(input_file: str | None, shape: str | None, dtype: str | None) -> None:
    """Check that the input is either a file or a random tensor.

    Raises:
        UsageError: it is both.
    """
    if input_file is not None and (shape is not None or dtype is not None):
        raise UsageError("--shape and --dtype describe a random tensor; leave them out with --input")


def check_load(concurrency: list[int] | None, rate: list[float] | None, p99: float | None, *, sweep: bool) -> None:
    """Check that the load is chosen in one way, and that a limit of the knee comes with rates.

    Raises:
        UsageError: it is chosen in several ways, or nothing is compared with the limit.
    """
    if (concurrency is not None) + (rate is not None) + sweep > 1:
        raise UsageError("--concurrency, --rate and --sweep are three ways to choose the load; give one of them")
    if p99 is not None and rate is None and not sweep:
        raise UsageError("--p99 is a limit for the knee of several rates; give --sweep or --rate, too")


def check_numbers(*options: tuple[str, Sequence[float | None] | None]) -> None:
    """Check that no option is nan, which the limits of an option do not refuse.

    Raises:
        UsageError: one is.
    """
    for option, values in options:
        if any(value is not None and math.isnan(value) for value in values or ()):
            raise UsageError(f"{option} takes a number; got nan")


def default_max_outstanding(payload_bytes: int) -> int:
    """Return the default of --max-outstanding for a payload."""
    return max(1, min(_MAX_OUTSTANDING, _MAX_OUTSTANDING_BYTES // max(payload_bytes, 1)))
