"""The fuzzers find no fault in a few inputs, keep an input that fails, and repeat it."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from tests.fuzz import frames, images, messages, specs

ROOT = Path(__file__).parents[2]
FUZZERS = {"messages": 1000, "specs": 200, "images": 500, "frames": 100}


def run_fuzzer(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", f"tests.fuzz.{name}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)


@pytest.mark.parametrize(("name", "inputs"), FUZZERS.items(), ids=FUZZERS)
def test_no_input_fails(name: str, inputs: int, tmp_path: Path) -> None:
    done = run_fuzzer(name, "--inputs", inputs, "--seed", 7, "--failures", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name}: {inputs} inputs, seed 7, 0 failures" in done.stdout


@pytest.mark.parametrize("fuzzer", [frames, images, messages, specs], ids=lambda fuzzer: fuzzer.__name__)
def test_equal_seeds_give_equal_inputs(fuzzer: object) -> None:
    generate = fuzzer.generate  # type: ignore[attr-defined]
    assert [generate(Random(seed)) for seed in (1, 1, 2)].count(generate(Random(1))) == 2


def test_an_input_that_fails_is_kept_and_can_be_repeated(tmp_path: Path) -> None:
    # A file with the number of a color mode that does not exist.
    broken = tmp_path / "input"
    broken.write_bytes(b"\xff")
    assert run_fuzzer("images", "--replay", broken).returncode != 0
    whole = tmp_path / "whole"
    whole.write_bytes(bytes((0, *b"not an image")))
    assert run_fuzzer("images", "--replay", whole).stdout == "the input passes\n"
