"""Run each attack against a real server, and print what its good callers noticed.

    make attacks                                    all attacks, in less than ten minutes
    make attacks FLAGS='long_work cache_growth'     some attacks, by the names of their modules
    make attacks FLAGS='--through 127.0.0.1:8443 --listen 127.0.0.1:50051 stream_resets'
                                                    through a proxy that passes calls on to the server's address

Each attack has a server of its own. Good callers use the server before, during and after the attack; a health check
runs beside them and the server's memory is sampled. The attacker is a process of its own. The command fails if a good
call fails or if one of the bounds below is exceeded. If good callers are slow before an attack, because other programs
use the machine, the attack is not judged and the command fails, too. The table at the end has, for each attack: the
good callers' p99 and their rate as a fraction of the rate without the attack, the longest health check, and the memory
that the server took at most and that it kept.

An attack is a module of this folder with

    FLAGS    flags for the server, a tuple
    BEFORE   what the attack did to the server before it was bounded, one line
    TOKEN    optional: the server requires this bearer token, which the good callers have
    RETRIES  optional: True if the good callers repeat calls that end as UNAVAILABLE, as the SDK does
    MIN_RATE optional: the least rate of the good callers, as a fraction of their rate without the attack
    attack   async def attack(target: Target, seconds: float) -> str: attacks the server for about that long, closes
             everything that it opened, and returns what it saw, one line
"""

import argparse
import asyncio
import contextlib
import importlib
import multiprocessing
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from good_callers import GoodCallers, Observed
from memory import MemorySampler
from poolservice_server.testing import Service, serve
from target import Target

# The bounds, for a machine with two cores.
MAX_P99_SECONDS = 0.25
MAX_HEALTH_SECONDS = 0.1
MAX_MEMORY_BYTES_ABOVE_QUEUE = 300 * 2**20
MAX_MEMORY_BYTES_KEPT = 100 * 2**20

# If good callers exceed these without an attack, other programs use too much of the machine.
MAX_BASELINE_P99_SECONDS = 0.05
MAX_BASELINE_HEALTH_SECONDS = 0.05

_QUEUE_BYTES = 512 * 2**20
_BASELINE_SECONDS = 3.0
# How often the good callers are observed before an attack, until the machine is free enough.
_BASELINES = 3
_ATTACK_SECONDS = 8.0
# The longest time after an attack until the server has given its memory back.
_RECOVERY_SECONDS = 10.0

_NOT_ATTACKS = ("run", "target", "good_callers", "memory", "http2_connection", "repeated_calls")
ATTACKS = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem not in _NOT_ATTACKS))

COLUMNS = ("attack", "p99", "rate", "health", "peak", "kept", "verdict")


class BusyMachine(Exception):
    """Other programs use so much of the machine that an attack cannot be judged."""


class Verdict:
    """The result of one attack.

    Attributes:
        lines: what was measured.
        figures: the same in short, for the table.
        broken: the bounds that were exceeded; empty if the server withstood the attack.
    """

    def __init__(
        self,
        saw: str,
        before: Observed,
        during: Observed,
        memory: MemorySampler,
        *,
        kept: int,
        workers: int,
        min_rate: float,
    ) -> None:
        limit = workers * (_QUEUE_BYTES + MAX_MEMORY_BYTES_ABOVE_QUEUE)
        rate = during.rate / before.rate
        self.lines = [
            f"the attacker saw: {saw}",
            f"good callers: p99 {during.p99 * 1e3:.0f} ms (alone {before.p99 * 1e3:.0f} ms), "
            f"{during.rate:.0f} calls/s (alone {before.rate:.0f}), {len(during.errors)} failed"
            + (f", {during.retries} repeated" if during.retries else ""),
            f"health: at most {during.health * 1e3:.0f} ms",
            f"memory: {memory.start / 1e6:.0f} MB before, {memory.peak / 1e6:.0f} MB at most, "
            f"{kept / 1e6:+.0f} MB afterwards",
        ]
        self.figures = (
            f"{during.p99 * 1e3:.0f} ms",
            f"{rate:.2f}",
            f"{during.health * 1e3:.0f} ms",
            f"{(memory.peak - memory.start) / 1e6:+.0f} MB",
            f"{kept / 1e6:+.0f} MB",
        )
        self.broken = [
            reason
            for is_broken, reason in (
                (bool(during.errors), f"good calls failed: {', '.join(sorted(set(during.errors)))[:300]}"),
                (during.p99 > MAX_P99_SECONDS, f"p99 of good callers above {MAX_P99_SECONDS * 1e3:.0f} ms"),
                (rate < min_rate, f"good callers at {rate:.2f} of their rate, below {min_rate}"),
                (during.health > MAX_HEALTH_SECONDS, f"health above {MAX_HEALTH_SECONDS * 1e3:.0f} ms"),
                (memory.peak > limit, f"memory above {limit / 1e6:.0f} MB"),
                (kept > MAX_MEMORY_BYTES_KEPT, f"more than {MAX_MEMORY_BYTES_KEPT / 1e6:.0f} MB kept"),
            )
            if is_broken
        ]


async def run_attack(name: str, options: argparse.Namespace, attackers: ProcessPoolExecutor) -> Verdict:
    """Start a server, run one attack against it, and compare the good callers before and during the attack.

    Raises:
        BusyMachine: the good callers are slow without the attack.
    """
    module = importlib.import_module(name)
    token: str = getattr(module, "TOKEN", "")
    with _server(("--address", options.listen, *module.FLAGS), token) as service:
        address = options.through or service.address
        target = Target(address, _metrics_url(service), service.process.pid)
        async with GoodCallers(address, token, retries=getattr(module, "RETRIES", False)) as callers:
            await callers.observe(0.5)
            with MemorySampler(target.pid) as memory:
                before = await _baseline(callers)
                memory.begin()
                loop = asyncio.get_running_loop()
                attack = loop.run_in_executor(attackers, _attack, name, target, options.seconds)
                during = await callers.observe_until(attack)
                kept = memory.settle(_RECOVERY_SECONDS, MAX_MEMORY_BYTES_KEPT)
        workers = max(1, len(memory.processes) - 1)
        min_rate: float = getattr(module, "MIN_RATE", 0.0)
        return Verdict(await attack, before, during, memory, kept=kept, workers=workers, min_rate=min_rate)


async def _baseline(callers: GoodCallers) -> Observed:
    """Return what the good callers see without an attack, once other programs leave them enough of the machine."""
    for _ in range(_BASELINES):
        observed = await callers.observe(_BASELINE_SECONDS)
        if observed.p99 <= MAX_BASELINE_P99_SECONDS and observed.health <= MAX_BASELINE_HEALTH_SECONDS:
            return observed
    raise BusyMachine(
        f"without an attack, the good callers' p99 is {observed.p99 * 1e3:.0f} ms and the longest health check takes "
        f"{observed.health * 1e3:.0f} ms; the limits are {MAX_BASELINE_P99_SECONDS * 1e3:.0f} and "
        f"{MAX_BASELINE_HEALTH_SECONDS * 1e3:.0f} ms. Stop the other programs on this machine and repeat the attack"
    )


def _attack(name: str, target: Target, seconds: float) -> str:
    """Run an attack, in the attacker's process."""
    saw: str = asyncio.run(importlib.import_module(name).attack(target, seconds))
    return saw


@contextlib.contextmanager
def _server(flags: tuple[str, ...], token: str) -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text(f"{token}\n")
        authentication = ("--auth-token-file", str(tokens)) if token else ()
        limits = ("--max-queue-bytes", str(_QUEUE_BYTES), "--metrics-address", "127.0.0.1:0")
        with serve("--device", "cpu", *limits, *authentication, *flags) as service:
            yield service


def _metrics_url(service: Service) -> str:
    found = re.search(r"http://[\w.:\[\]]+/metrics", service.log())
    if found is None:
        raise AssertionError(f"the server has not logged the URL of its metrics:\n{service.log()}")
    return found.group()


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print a row per attack, and below them what each attack did before it was bounded."""
    table = (COLUMNS, *rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print()
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("\nbefore:")
    for name, *_ in rows:
        print(f"{name.ljust(widths[0])}  {importlib.import_module(name).BEFORE}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Attack a real server and report what its good callers noticed.")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"default: all of {', '.join(ATTACKS)}")
    parser.add_argument("--seconds", type=float, default=_ATTACK_SECONDS, help="length of each attack (default: 8)")
    parser.add_argument("--through", metavar="HOST:PORT", help="address of a proxy that callers and attackers use")
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:0", help="address of the server itself")
    options = parser.parse_args()
    if unknown := sorted(set(options.attacks) - set(ATTACKS)):
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(ATTACKS)}")
    return options


def main() -> int:
    """Run the attacks that the command line names; return the exit status."""
    options = _options()
    sys.path.insert(0, str(Path(__file__).parent))
    failed = []
    not_judged = []
    rows = []
    context = multiprocessing.get_context("spawn")
    for name in options.attacks or ATTACKS:
        print(f"\n{name}", flush=True)
        print(f"  before: {importlib.import_module(name).BEFORE}")
        try:
            with ProcessPoolExecutor(1, mp_context=context) as attackers:
                verdict = asyncio.run(run_attack(name, options, attackers))
        except BusyMachine as busy:
            print(f"  NOT JUDGED: {busy}", flush=True)
            not_judged.append(name)
            rows.append((name, *("-" for _ in COLUMNS[1:-1]), "not judged"))
            continue
        except Exception:  # noqa: BLE001 - the other attacks still run
            traceback.print_exc()
            failed.append(name)
            rows.append((name, *("-" for _ in COLUMNS[1:-1]), "no result"))
            continue
        for line in verdict.lines:
            print(f"  {line}")
        print(f"  {'BROKEN: ' + '; '.join(verdict.broken) if verdict.broken else 'withstood'}", flush=True)
        rows.append((name, *verdict.figures, "BROKEN" if verdict.broken else "withstood"))
        if verdict.broken:
            failed.append(name)
    print_table(rows)
    print(f"\n{len(failed)} attacks succeeded{': ' + ', '.join(failed) if failed else ''}")
    if not_judged:
        print(f"{len(not_judged)} attacks not judged, because the machine was busy: {', '.join(not_judged)}")
    return 1 if failed or not_judged else 0


if __name__ == "__main__":
    sys.exit(main())
