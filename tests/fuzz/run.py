"""Run all fuzzers, a million inputs in total, and the check of the estimates of stages.

    make fuzz                    a million inputs: about ten minutes on two cores
    make fuzz FLAGS=--quick      5,000 inputs, in less than a minute

It prints one line per fuzzer, and exits with status 1 if an input fails. Failing inputs are in fuzz-failures/, each
with the command that repeats it on stderr. Other seeds give other inputs.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType

#: The number of inputs of each fuzzer: in a full run, a million together, and in a quick one.
INPUTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"messages": (600_000, 3_000), "specs": (130_000, 600), "images": (250_000, 1_200), "frames": (20_000, 200)}
)
#: The number of stages whose time and memory are compared with their estimates.
ESTIMATES = (3_000, 200)


def main() -> int:
    """Run everything, one fuzzer after the other, each in several processes."""
    parser = argparse.ArgumentParser(prog="make fuzz", description="Run all fuzzers.")
    parser.add_argument("--quick", action="store_true", help="5,000 inputs instead of a million")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per core")
    options = parser.parse_args()
    failed = []
    for name, inputs in INPUTS.items():
        arguments = ["--inputs", inputs[options.quick], "--seed", options.seed, "--processes", options.processes]
        if subprocess.run([sys.executable, "-m", f"tests.fuzz.{name}", *map(str, arguments)], check=False).returncode:
            failed.append(name)
    # A quick run must pass on a busy machine, where only the memory can be measured.
    only = ("--only", "memory") if options.quick else ()
    estimates = ["--cases", ESTIMATES[options.quick], "--seed", options.seed, *only]
    command = [sys.executable, "tests/bench/stage_cost.py", *map(str, estimates)]
    if subprocess.run(command, check=False).returncode:
        failed.append("estimates of stages")
    total = sum(inputs[options.quick] for inputs in INPUTS.values())
    print(f"{total} inputs; {'failed: ' + ', '.join(failed) if failed else 'all passed'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
