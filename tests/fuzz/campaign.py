"""Runs a fuzzer over many inputs, in one or several processes, and keeps every input that fails.

A fuzzer has two functions: `generate` makes an input from a random generator, `check` raises if the input shows a
fault. Input number i depends only on the fuzzer, the seed and i. Child processes do the work; a child that crashes,
hangs or outgrows its memory leaves the input that it was checking in a shared file, and is replaced.
"""

import argparse
import json
import mmap
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

#: A child that checks one input for longer than this hangs.
HANG_SECONDS = 60.0

_MAX_CRASHES = 20
_MAX_INPUT_BYTES = 2**24
# The number and the size of the input that is checked, and how many inputs of the child have failed.
_HEADER = struct.Struct("<qqq")


class Fuzzer(NamedTuple):
    """What a campaign runs.

    Attributes:
        name: the name of its module in tests/fuzz.
        generate: returns an input.
        check: raises any exception if the input shows a fault.
        inputs: the default number of inputs.
        memory_bytes: how much the resident memory of a child may grow above its size after the first inputs.
        finish: called after a child's last input; raises as `check` does.
    """

    name: str
    generate: Callable[[Random], bytes]
    check: Callable[[bytes], None]
    inputs: int
    memory_bytes: int = 2**30
    finish: Callable[[], None] = lambda: None


def main(fuzzer: Fuzzer) -> None:
    """Parse the command line and run the campaign; exit with status 1 if an input fails."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.fuzz.{fuzzer.name}")
    parser.add_argument("--inputs", type=int, default=fuzzer.inputs, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds give equal inputs; default: %(default)s")
    parser.add_argument("--processes", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="the folder for failing inputs")
    parser.add_argument("--replay", type=Path, help="check the input in this file instead")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replay:
        fuzzer.check(options.replay.read_bytes())
        fuzzer.finish()
        print("the input passes")
    elif options.child:
        first, current = options.child.split(":", 1)
        child = _Child(fuzzer, options.seed, options.failures, Path(current))
        print(json.dumps(child.run(range(int(first), options.inputs, options.processes))))
    else:
        sys.exit(_Parent(fuzzer, options).run())


class _Child:
    """Checks every n-th input of a campaign."""

    def __init__(self, fuzzer: Fuzzer, seed: int, failures: Path, current: Path) -> None:
        self._fuzzer = fuzzer
        self._seed = seed
        self._failures = failures
        with current.open("r+b") as file:
            self._current = mmap.mmap(file.fileno(), 0)

    def run(self, numbers: range) -> int:
        """Return the number of failures."""
        failures = 0
        max_rss = 0
        for position, number in enumerate(numbers):
            data = self._fuzzer.generate(Random(f"{self._fuzzer.name} {self._seed} {number}"))
            self._current[: _HEADER.size] = _HEADER.pack(number, len(data), failures)
            self._current[_HEADER.size : _HEADER.size + len(data)] = data
            try:
                self._fuzzer.check(data)
                rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                if position < 200:  # until code and caches are loaded
                    max_rss = rss + self._fuzzer.memory_bytes
                elif rss > max_rss:
                    max_rss = rss + self._fuzzer.memory_bytes // 4
                    raise MemoryError(f"the resident memory grew by more than {self._fuzzer.memory_bytes} bytes")
            except Exception:  # noqa: BLE001  any exception is a finding
                failures += 1
                _keep(self._fuzzer.name, self._failures, self._seed, number, data, traceback.format_exc())
        try:
            self._fuzzer.finish()
        except Exception:  # noqa: BLE001
            failures += 1
            _keep(self._fuzzer.name, self._failures, self._seed, numbers.stop, b"", traceback.format_exc())
        return failures


class _Parent:
    """Runs children and replaces those that crash or hang."""

    def __init__(self, fuzzer: Fuzzer, options: argparse.Namespace) -> None:
        self._fuzzer = fuzzer
        self._options = options
        self._failures = 0

    def run(self) -> int:
        """Run the campaign, print its result in one line and return the exit status."""
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, str(number)) for number in range(self._options.processes)]
            children = {}
            for number, file in enumerate(files):
                with file.open("wb") as current:
                    current.truncate(_HEADER.size + _MAX_INPUT_BYTES)
                children[file] = self._start(number, file)
            for file in files:
                self._wait(children[file], file)
        seconds = time.monotonic() - start
        print(
            f"{self._fuzzer.name}: {self._options.inputs} inputs, seed {self._options.seed}, "
            f"{self._failures} failures, {seconds:.0f} s, {self._options.inputs / seconds:.0f} inputs/s",
            flush=True,
        )
        return int(self._failures > 0)

    def _start(self, first: int, file: Path) -> "subprocess.Popen[str]":
        options = self._options
        file_bytes = _HEADER.pack(first, 0, 0)
        with file.open("r+b") as current:
            current.write(file_bytes)
        numbers = ("--inputs", options.inputs, "--seed", options.seed, "--processes", options.processes)
        arguments = (*numbers, "--failures", options.failures, "--child", f"{first}:{file}")
        command = [sys.executable, "-m", f"tests.fuzz.{self._fuzzer.name}", *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def _wait(self, child: "subprocess.Popen[str]", file: Path) -> None:
        for _ in range(_MAX_CRASHES):
            reason = self._end_of(child, file)
            if reason is None:
                assert child.stdout is not None
                self._failures += int(json.loads(child.stdout.read().splitlines()[-1]))
                return
            number, size, failures = _HEADER.unpack(file.read_bytes()[: _HEADER.size])
            data = file.read_bytes()[_HEADER.size :][:size]
            self._failures += failures + 1
            _keep(self._fuzzer.name, self._options.failures, self._options.seed, number, data, reason)
            child = self._start(number + self._options.processes, file)
        child.kill()
        child.wait()
        print(f"{self._fuzzer.name}: gave up after {_MAX_CRASHES} crashes", file=sys.stderr)

    def _end_of(self, child: "subprocess.Popen[str]", file: Path) -> str | None:
        """Wait until a child ends; return what ended it, or None if it checked its last input."""
        last = b""
        while True:
            try:
                status = child.wait(HANG_SECONDS)
            except subprocess.TimeoutExpired:
                with file.open("rb") as current:
                    header = current.read(_HEADER.size)
                if header == last:
                    child.kill()
                    child.wait()
                    return f"the process checked this input for more than {HANG_SECONDS} s"
                last = header
                continue
            return None if status == 0 else f"the process ended with status {status}"


def _keep(name: str, folder: Path, seed: int, number: int, data: bytes, reason: str) -> None:
    """Write an input that fails to a file, and print why it fails and how to check it again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{seed}-{number}"
    path.write_bytes(data)
    message = f"{reason.rstrip()}\n{name}: input {number} of seed {seed} fails; to repeat this, run\n"
    os.write(2, f"{message}    python -m tests.fuzz.{name} --replay {path}\n".encode())
