"""Kill, crash and stop the workers of a service while clients call it, then stop the service under load.

    make chaos                       for a minute: python -m tests.chaos.workers [--seconds S] [--seed S]

Every response must be right. No call may fail after its retries while workers die. While a service stops, it completes
the calls that it has accepted and refuses further ones as unavailable.
"""

import argparse
import signal
import sys
import threading
import time
from contextlib import suppress
from random import Random

import psutil
from tests.chaos.clients import Clients

from poolservice_server.testing import Service, serve

_CALL_SECONDS = 60.0
_THREADS = 4
_WORKERS = 2
#: The signals, and the seconds after which a stopped worker goes on.
_SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP)
_STOPPED_SECONDS = 0.5
#: Calls that must be right after each signal before the next one.
_CALLS_BETWEEN = 50


def main() -> int:
    """Run the chaos; return 1 if a call failed or was wrong."""
    parser = argparse.ArgumentParser(prog="make chaos", description="Kill workers while clients call them.")
    parser.add_argument("--seconds", type=float, default=60.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args()
    with serve("--device", "cpu", "--workers", str(_WORKERS)) as service:
        clients = Clients(service.address, _THREADS, timeout=_CALL_SECONDS)
        try:
            sent = _disturb(service, clients, options.seconds, Random(options.seed))
        finally:
            clients.stop()
        print(f"workers: {sent} signals, {_summary(clients)}")
    drained = _drain()
    return int(_bad(clients) or _bad(drained))


def _disturb(service: Service, clients: Clients, seconds: float, random: Random) -> int:
    """Send signals to random workers, each after some right calls; return their number."""
    end, sent = time.monotonic() + seconds, 0
    while time.monotonic() < end or sent < len(_SIGNALS):
        clients.wait_for(_CALLS_BETWEEN, _CALL_SECONDS)
        workers = [worker for worker in worker_processes(service.process.pid) if _serves(worker)]
        # On a busy machine a worker takes seconds to start. Without any, no number of retries would be enough.
        if len(workers) < _WORKERS:
            continue
        number = _SIGNALS[sent % len(_SIGNALS)]
        worker = random.choice(workers)
        worker.send_signal(number)
        sent += 1
        if number == signal.SIGSTOP:
            threading.Timer(_STOPPED_SECONDS, worker.resume).start()
    clients.wait_for(_CALLS_BETWEEN, _CALL_SECONDS)
    return sent


def _drain() -> Clients:
    """Stop a service under load; the calls that it accepted are right, and later ones are refused as unavailable."""
    with serve("--device", "cpu") as service:
        clients = Clients(service.address, _THREADS, timeout=5.0)
        try:
            clients.wait_for(_CALLS_BETWEEN, _CALL_SECONDS)
            status = service.stop()
        finally:
            clients.stop()
    unavailable = {message: count for message, count in clients.failed.items() if message.startswith("Unavailable")}
    for message in unavailable:
        del clients.failed[message]
    print(f"drain: exit status {status}, {sum(unavailable.values())} calls refused, {_summary(clients)}")
    if status:
        clients.failed[f"the service ended with exit status {status}"] += 1
    return clients


def worker_processes(supervisor: int) -> list[psutil.Process]:
    """Return the worker processes of a supervisor."""
    return [child for child in psutil.Process(supervisor).children() if _is_worker(child)]


def _is_worker(child: psutil.Process) -> bool:
    # A child may end meanwhile.
    with suppress(psutil.NoSuchProcess):
        return "spawn_main" in " ".join(child.cmdline())
    return False


def _serves(worker: psutil.Process) -> bool:
    """Return True if the worker accepts connections."""
    with suppress(psutil.NoSuchProcess):
        return any(one.status == psutil.CONN_LISTEN for one in worker.net_connections("tcp"))
    return False


def _summary(clients: Clients) -> str:
    failed = "".join(f"\n    {count} x {message}" for message, count in clients.failed.items())
    return f"{clients.right} calls right, {clients.wrong} wrong, {sum(clients.failed.values())} lost{failed}"


def _bad(clients: Clients) -> bool:
    return bool(clients.wrong or clients.failed)


if __name__ == "__main__":
    sys.exit(main())
