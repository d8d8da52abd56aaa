"""A real Prometheus that scrapes one target with the rules of server/deploy/observe, and its HTTP interface."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import yaml
from tests.observe.documents import OBSERVE, load_yaml

START_SECONDS = 60.0
REQUEST_SECONDS = 60.0

Series = dict[str, Any]


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ranges(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        """Return the series of an expression between two times, each with `metric` and `values`."""
        found: list[Series] = self._get("query_range", query=expression, start=start, end=end, step=step)["result"]
        return found

    def now(self, expression: str) -> list[Series]:
        """Return the series of an expression at this moment, each with `metric` and `value`."""
        found: list[Series] = self._get("query", query=expression)["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Return the state of each rule: name, health, lastError, alerts."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: object) -> dict[str, Any]:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=REQUEST_SECONDS) as page:
            data: dict[str, Any] = json.load(page)["data"]
        return data


@contextmanager
def scraping(program: str, metrics_url: str, folder: Path, interval: str) -> Iterator[Prometheus]:
    """Run Prometheus until the end of the block.

    Args:
        program: the path of `prometheus`.
        metrics_url: the target.
        folder: an empty folder for its configuration, data and log.
        interval: how often it scrapes and evaluates rules, such as 1s.
    """
    configuration = load_yaml("prometheus.yml")
    configuration["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    configuration["rule_files"] = [str(OBSERVE / name) for name in configuration["rule_files"]]
    (job,) = [one for one in configuration["scrape_configs"] if one["job_name"] == "poolservice"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [urlsplit(metrics_url).netloc]}]
    configuration["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield Prometheus(_url_of(process, folder / "log"))
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _url_of(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until Prometheus is ready, and return its URL: it does not report the port that it has chosen."""
    started = time.monotonic()
    while time.monotonic() < started + START_SECONDS and process.poll() is None:
        for connection in psutil.Process(process.pid).net_connections():
            if connection.status == psutil.CONN_LISTEN:
                url = f"http://127.0.0.1:{connection.laddr.port}"
                try:
                    with urllib.request.urlopen(f"{url}/-/ready", timeout=REQUEST_SECONDS):
                        return url
                except urllib.error.HTTPError:
                    pass  # 503: it is still starting.
    raise TimeoutError(f"Prometheus did not start:\n{log.read_text()}")
