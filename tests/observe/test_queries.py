"""Each query of the dashboard and each rule names metrics, labels and label values that a running service exports."""

import re
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.backbones.models import TinyBackbone
from tests.observe.documents import ROOT, dashboard_queries, guide_queries, label_references, rule_queries, rules
from tests.observe.promql import selectors

from poolservice_client import GlobalAvgPool2d, InvalidRequest, PoolClient
from poolservice_server.testing import serve

TIMEOUT_SECONDS = 60

# Prometheus adds these labels to every series of a target.
TARGET_LABELS = {"job", "instance"}
# Series that Prometheus itself makes.
PROMETHEUS = {"up": TARGET_LABELS, "ALERTS": {"alertname", "alertstate", "severity"}}
# Metrics that only a GPU has. Their labels are those of the table of metrics.
GPU_ONLY = {"poolservice_device_memory_bytes"}

CODES = {code.name for code in grpc.StatusCode}

QUERIES = dashboard_queries() + rule_queries() + guide_queries()


class Known(NamedTuple):
    """What Prometheus has of a running service.

    Attributes:
        labels: the labels of each series: of the service, of Prometheus, and recorded ones.
        values: the values that the service exports for each label of its series.
    """

    labels: dict[str, set[str]]
    values: dict[tuple[str, str], set[str]]


@pytest.fixture(scope="module")
def known(mobilenetv2: TinyBackbone, photograph: Path, tmp_path_factory: pytest.TempPathFactory) -> Known:
    """What Prometheus has of a service of two workers after calls that succeed, fail and use a backbone."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("secret tester\n")
    flags = ("--device", "cpu", "--workers", "2", "--metrics-address", "127.0.0.1:0", "--auth-token-file", str(tokens))
    with (
        serve(*flags, "--backbone", str(mobilenetv2.path)) as server,
        PoolClient(server.address, token="secret") as client,
    ):
        client.pool(np.zeros((3, 8, 8), np.float32), GlobalAvgPool2d())
        client.pool(photograph, GlobalAvgPool2d())
        client.pool(photograph, GlobalAvgPool2d(), backbone="mobilenetv2", output="features")
        with pytest.raises(InvalidRequest):
            client.pool(np.zeros(3, np.float32), GlobalAvgPool2d())
        url = re.search(r"http://127\.0\.0\.1:\d+/metrics", server.log())
        assert url
        page = scrape(url[0])
        # On a busy machine, a worker may not answer in time. Its series are then left out.
        while re.search(r"^poolservice_worker_up\S+ 0", page, re.MULTILINE):
            page = scrape(url[0])
        return known_from(page)


def scrape(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as page:
        text: str = page.read().decode()
        return text


def known_from(page: str) -> Known:
    labels: dict[str, set[str]] = defaultdict(set)
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels[sample.name] |= set(sample.labels) | TARGET_LABELS
            for label, value in sample.labels.items():
                values[sample.name, label].add(value)
    for name in GPU_ONLY:
        row = re.search(rf"^\| `{name}` \| \w+ \| (.*?) \|", (ROOT / "server" / "METRICS.md").read_text(), re.MULTILINE)
        assert row, name
        labels[name] = {"worker", *re.findall(r"`(\w+)`", row[1])} | TARGET_LABELS
    for rule in rules():
        if "record" in rule:
            labels[rule["record"]] = set.union(*(one.by for one in selectors(rule["expr"])))
    return Known(dict(labels) | PROMETHEUS, values)


def test_queries_name_metrics_labels_and_values_that_exist(known: Known) -> None:
    assert QUERIES
    assert [f"{query}: {problem}" for query in QUERIES for problem in problems(query.expression, known)] == []


def test_legends_and_annotations_show_labels_of_their_queries(known: Known) -> None:
    for query in QUERIES:
        shown = label_references(query.text)
        for selector in selectors(query.expression):
            if selector.name not in PROMETHEUS:
                assert shown <= (selector.by or known.labels[selector.name]), f"{query} shows a label that is not there"


@pytest.mark.parametrize(
    "expression",
    [
        "sum(poolservice_calls)",
        "sum by (device) (poolservice_calls_in_progress)",
        'poolservice_calls_in_progress{code="OK"}',
        'poolservice_calls_total{code="FINE"}',
        'poolservice_drops_total{reason=~"deadline|boredom"}',
    ],
)
def test_a_wrong_query_is_found(expression: str, known: Known) -> None:
    assert len(list(problems(expression, known))) == 1


def problems(expression: str, known: Known) -> Iterator[str]:
    """Yield a sentence for each metric, label and value of an expression that the service does not export."""
    for selector in selectors(expression):
        if selector.name not in known.labels:
            yield f"nothing exports {selector.name}"
            continue
        for label in selector.labels() - known.labels[selector.name]:
            yield f"{selector.name} has no label {label}"
        for label, value in selector.values():
            exported = CODES if label == "code" else known.values.get((selector.name, label))
            # Prometheus' own labels and the labels of recorded series are not exported.
            if exported and value not in exported:
                yield f"{selector.name} has no {label} {value}"
