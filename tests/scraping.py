"""Scrapes of a running server's metrics."""

import re
import urllib.request
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from poolservice_server.testing import Service

TIMEOUT_SECONDS = 60


class Scrape:
    """Metric families at one moment, by name.

    Attributes:
        families: the families; the name of a counter ends with _total in its samples only.
    """

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = {one.name: one for one in families}

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with this name and these labels, of which there must be some."""
        values = [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert values, f"no {name} with {labels}"
        return sum(values)


def metrics_url(server: Service) -> str:
    """Return the URL of the metrics, which the server has logged."""
    found = re.search(r"http://[\w.:\[\]]+/metrics", server.log())
    assert found is not None, f"the log names no metrics:\n{server.log()}"
    return found[0]


def page(url: str, token: str = "") -> str:
    """Return the text of the metrics, in Prometheus's text format."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text: str = response.read().decode()
        return text


def scrape(server: Service) -> Scrape:
    """Return the metrics of a server as they are now."""
    return Scrape(text_string_to_metric_families(page(metrics_url(server))))
