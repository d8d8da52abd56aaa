"""Measure how long a server takes from its start to its first response, and what takes the time.

    make bench-startup
    python tests/bench/startup.py --rounds 10

Three tables: the phases of one process, the import time of each package, and the totals for one process and two
workers. Times of a round that other programs disturbed are too long, so the fastest round counts.
"""

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil

from poolservice.v1 import pool_pb2 as pb
from poolservice_server.testing import Service, serve

_PHASES_COMMAND = (sys.executable, str(Path(__file__).with_name("startup_phases.py")))
_IMPORTS_COMMAND = (sys.executable, "-X", "importtime", "-m", "poolservice_server")
_COMMAND = (sys.executable, "-m", "poolservice_server")
_FLAGS = ("--device", "cpu")
_TIMEOUT_SECONDS = 60.0

# Packages that take less are summed up.
_SMALL_SECONDS = 0.01


class Start(NamedTuple):
    """One start of a server.

    Attributes:
        ready: seconds until it announced that it serves.
        responded: seconds until its first response.
        cpu: CPU seconds of all its processes until then.
        log: its standard error.
    """

    ready: float
    responded: float
    cpu: float
    log: str


def start(command: Sequence[str], *flags: str) -> Start:
    """Start a server and send it a request."""
    began = time.monotonic()
    with serve(*_FLAGS, *flags, command=command, env={"STARTUP_BEGAN": str(began)}) as service:
        ready = time.monotonic() - began
        _send_request(service.address)
        responded = time.monotonic() - began
        return Start(ready, responded, _cpu_seconds(service), service.log())


def _send_request(address: str) -> None:
    request = pb.PoolRequest(
        specs=[pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[2]))],
        tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3, 224, 224], data=bytes(4 * 3 * 224 * 224)),
    )
    with grpc.insecure_channel(address) as channel:
        pool: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/poolservice.v1.PoolService/Pool")
        pool(request.SerializeToString(), timeout=_TIMEOUT_SECONDS)


def _cpu_seconds(service: Service) -> float:
    server = psutil.Process(service.process.pid)
    return sum(sum(one.cpu_times()[:2]) for one in (server, *server.children(recursive=True)))


def phases(log: str) -> dict[str, float]:
    """Return the seconds of each phase, as `startup_phases.py` writes them."""
    lines = (line.split("\t") for line in log.splitlines() if line.startswith("phase\t"))
    return {name: float(seconds) for _, name, seconds in lines}


def imports(log: str) -> dict[str, float]:
    """Return the seconds that the modules of each package took, without what they import, from -X importtime."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for line in log.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own.strip().isdecimal():
            module = rest.partition("|")[2].strip()
            package = module.partition(".")[0]
            seconds["standard library" if package in sys.stdlib_module_names else package] += int(own) / 1e6
    return seconds


def _print_table(title: str, rows: Mapping[str, float]) -> None:
    print(f"\n{title}")
    for name, seconds in rows.items():
        print(f"  {name:<44} {seconds * 1000:8.0f} ms")


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind (default: %(default)s)")
    rounds: int = parser.parse_args().rounds

    measured: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        begun = start(_PHASES_COMMAND)
        for name, seconds in phases(begun.log).items():
            measured[name].append(seconds)
        measured["first response"].append(begun.responded - begun.ready)
    _print_table("phases of one process", {name: min(seconds) for name, seconds in measured.items()})

    packages = min((imports(start(_IMPORTS_COMMAND).log) for _ in range(rounds)), key=lambda one: sum(one.values()))
    by_time = sorted(packages.items(), key=lambda item: item[1], reverse=True)
    large = {name: seconds for name, seconds in by_time if seconds >= _SMALL_SECONDS}
    large["all other packages"] = sum(packages.values()) - sum(large.values())
    _print_table("imports, with the overhead of measuring them", large)

    for title, flags in (("one process", ()), ("two workers", ("--workers", "2"))):
        starts = [start(_COMMAND, *flags) for _ in range(rounds)]
        _print_table(
            title,
            {
                "serving": min(one.ready for one in starts),
                "serving, median": statistics.median(one.ready for one in starts),
                "first response": min(one.responded for one in starts),
                "CPU time": min(one.cpu for one in starts),
            },
        )
    print(f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
