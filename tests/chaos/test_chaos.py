"""The quick forms of `make chaos` and `make soak`."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.chaos.soak import Sample, growth

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", [("workers", "--seconds", "6"), ("soak", "--minutes", "0.2")], ids=str)
def test_a_short_run_passes(command: tuple[str, ...]) -> None:
    name, *flags = command
    done = subprocess.run(
        [sys.executable, "-m", f"tests.chaos.{name}", *flags], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_growth_is_found() -> None:
    steady = [Sample(10**8, 10, 20, 0)] * 10
    assert growth(steady) == []
    assert growth([*steady[:5], *[Sample(10**9, 10, 20, 0)] * 5]) == ["rss from 100000000 to 1000000000"]
