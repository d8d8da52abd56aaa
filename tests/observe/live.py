"""`python -m tests.observe.live`: run a server under changing load and a real Prometheus, and evaluate every query.

It fails if a query of the dashboard gives no data, except those of other devices, or if
Prometheus cannot evaluate a rule. With --figure FILE, it also draws the dashboard's queries; that is no screenshot of
Grafana. It needs `prometheus` (Debian: prometheus).
"""

import argparse
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from tests.backbones.models import tiny_backbone
from tests.observe.documents import dashboard
from tests.observe.figure import draw
from tests.observe.prometheus import Prometheus, Series, scraping

from poolservice_client import GlobalAvgPool2d, MaxPool2d, PoolClient, PoolError
from poolservice_server.testing import Service, serve

SCRAPE_SECONDS = 1
RATE_INTERVAL = "10s"

# Panels that have no data on this machine, and why.
EMPTY_ON_A_CPU = {
    "Memory of devices": "torch reports no memory of a CPU",
}

Work = Callable[[PoolClient], object]


def main() -> int:
    """Run the load, evaluate the queries, and return 1 if one of them has no data."""
    parser = argparse.ArgumentParser(prog="python -m tests.observe.live", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=100.0, help="the duration of the load")
    parser.add_argument("--figure", type=Path, help="draw the queries into this PNG file")
    parser.add_argument("--prometheus", default=shutil.which("prometheus"), help="the program")
    options = parser.parse_args()
    if not options.prometheus:
        print("prometheus is not installed (Debian: apt-get install prometheus)")
        return 1
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server:
        url = re.search(r"http://127\.0\.0\.1:\d+/metrics", server.log())
        assert url
        data = Path(folder) / "prometheus"
        data.mkdir()
        with scraping(options.prometheus, url[0], data, f"{SCRAPE_SECONDS}s") as prometheus:
            start = time.time()
            load(server.address, options.seconds)
            end = time.time()
            problems = evaluated(prometheus, start, end)
            if options.figure:
                draw(prometheus, options.figure, start, end, RATE_INTERVAL)
    for problem in problems:
        print(problem)
    return int(bool(problems))


@contextmanager
def served(folder: Path) -> Iterator[Service]:
    """Run a server of two workers with a backbone, three callers, and a queue and quotas that overload can fill."""
    backbone = tiny_backbone(folder / "tiny", name="tiny")
    tokens = folder / "tokens"
    tokens.write_text("a-secret shop\nb-secret research\nc-secret nightly\n")
    flags = ["--device", "cpu", "--workers", "2", "--metrics-address", "127.0.0.1:0", "--auth-token-file", str(tokens)]
    flags += ["--backbone", str(backbone.path), "--max-queue-items", "24", "--caller-max-rate", "200"]
    with serve(*flags) as server:
        yield server


def load(address: str, seconds: float) -> None:
    """Call the server for some seconds: few callers, then many more, then wrong and abandoned requests beside them."""
    random = np.random.default_rng(7)
    small, large = (random.random(shape, np.float32) for shape in ((8, 8, 8), (3, 224, 224)))
    photograph = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    works: list[tuple[str, float, float, int, Work]] = [
        ("a-secret", 0.0, 1.0, 2, lambda client: client.pool(photograph, GlobalAvgPool2d())),
        ("a-secret", 0.1, 1.0, 1, lambda client: client.pool(photograph, GlobalAvgPool2d(), backbone="tiny")),
        ("b-secret", 0.2, 0.9, 2, lambda client: client.pool(large, MaxPool2d(3, stride=1))),
        ("c-secret", 0.4, 0.8, 48, lambda client: client.pool(photograph, MaxPool2d(2), timeout=2.0)),
        ("c-secret", 0.5, 0.7, 1, lambda client: client.pool(small[0, 0], GlobalAvgPool2d())),
        ("b-secret", 0.6, 0.8, 4, lambda client: client.pool(large, MaxPool2d(99, stride=1), timeout=0.02)),
    ]
    begin = time.monotonic()
    with ExitStack() as stack:
        threads = []
        for token, first, last, callers, work in works:
            client = stack.enter_context(PoolClient(address, token=token, retries=None))
            limits = (begin + first * seconds, begin + last * seconds)
            threads += [threading.Thread(target=calls, args=(client, work, *limits)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def calls(client: PoolClient, work: Work, first: float, last: float) -> None:
    """Repeat a call between two times of `time.monotonic`; calls that fail are part of the load."""
    time.sleep(max(0.0, first - time.monotonic()))
    while time.monotonic() < last:
        try:
            work(client)
        except PoolError:
            time.sleep(0.05)


def evaluated(prometheus: Prometheus, start: float, end: float) -> list[str]:
    """Evaluate all queries and rules, print a line for each, and return the problems."""
    problems = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$instance", ".*").replace("$__rate_interval", RATE_INTERVAL)
            series: list[Series] = prometheus.ranges(expression, start, end, SCRAPE_SECONDS)
            print(f"{len(series):4} series, {sum(len(one['values']) for one in series):6} values  {panel['title']}")
            if not series and panel["title"] not in EMPTY_ON_A_CPU:
                problems.append(f"no data: {panel['title']}: {expression}")
    for rule in prometheus.rules():
        firing = [alert["labels"] for alert in rule.get("alerts", ()) if alert["state"] == "firing"]
        recorded = f"{len(prometheus.now(rule['name']))} series" if rule["type"] == "recording" else f"firing: {firing}"
        print(f"{rule['health']:8} {rule['name']}, {recorded}")
        if rule["health"] != "ok":
            problems.append(f"{rule['name']}: {rule.get('lastError')}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
