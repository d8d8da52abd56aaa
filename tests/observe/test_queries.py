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
from tests.observe.documents import ROOT, Query, dashboard_queries, guide_queries, label_references, rule_queries, rules
from tests.observe.promql import selectors

from poolservice_client import GlobalAvgPool2d, PoolClient
from poolservice_server.testing import serve

TIMEOUT_SECONDS = 60

# Prometheus adds these labels to every series of a target.
TARGET_LABELS = {"job", "instance"}
# Series that Prometheus itself makes.
PROMETHEUS = {"up": TARGET_LABELS, "ALERTS": {"alertname", "alertstate", "severity"}}
# Metrics that only a GPU has. Their labels are those of the table of metrics.
GPU_ONLY = {"poolservice_device_memory_bytes"}

QUERIES = dashboard_queries() + rule_queries() + guide_queries()


class Exported(NamedTuple):
    """What a running service exports: the labels of each series, and the values of each of its labels."""

    labels: dict[str, set[str]]
    values: dict[tuple[str, str], set[str]]


@pytest.fixture(scope="module")
def exported(
    mobilenetv2: TinyBackbone, photograph: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    """What a service of two workers exports after calls that succeed, fail and use a backbone."""
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
        with pytest.raises(ValueError, match="spatial"):
            client.pool(np.zeros(3, np.float32), GlobalAvgPool2d())
        url = re.search(r"http://127\.0\.0\.1:\d+/metrics", server.log())
        assert url
        with urllib.request.urlopen(url[0], timeout=TIMEOUT_SECONDS) as page:
            yield parsed(page.read().decode())


def parsed(page: str) -> Exported:
    exported = Exported(defaultdict(set), defaultdict(set))
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            exported.labels[sample.name] |= set(sample.labels)
            for label, value in sample.labels.items():
                exported.values[sample.name, label].add(value)
    for name in GPU_ONLY:
        row = re.search(rf"^\| `{name}` \| \w+ \| (.*?) \|", (ROOT / "server" / "METRICS.md").read_text(), re.MULTILINE)
        assert row, name
        exported.labels[name] = {"worker", *re.findall(r"`(\w+)`", row[1])}
    return exported


def known_labels(exported: Exported) -> dict[str, set[str]]:
    """Return the labels of every series that Prometheus has: of the service, of Prometheus, and recorded ones."""
    known = {name: labels | TARGET_LABELS for name, labels in exported.labels.items()} | PROMETHEUS
    for rule in rules():
        if "record" in rule:
            known[rule["record"]] = set.union(*(one.by for one in selectors(rule["expr"])))
    return known


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_a_query_names_metrics_and_labels_that_exist(query: Query, exported: Exported) -> None:
    known = known_labels(exported)
    found = selectors(query.expression)
    assert found
    for selector in found:
        assert selector.name in known, f"nothing exports {selector.name}"
        missing = selector.labels() - known[selector.name]
        assert not missing, f"{selector.name} has no label {missing}"


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_a_query_selects_values_that_exist(query: Query, exported: Exported) -> None:
    codes = {code.name for code in grpc.StatusCode}
    for selector in selectors(query.expression):
        for label, value in selector.values():
            if label == "code":
                assert value in codes
            elif label not in TARGET_LABELS and (selector.name, label) in exported.values:
                assert value in exported.values[selector.name, label], f"no {label}={value} of {selector.name}"


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_a_legend_shows_labels_of_its_query(query: Query, exported: Exported) -> None:
    known = known_labels(exported)
    shown = label_references(query.text)
    for selector in selectors(query.expression):
        if selector.name in exported.labels:
            assert shown <= (selector.by or known[selector.name]), f"{selector.name} has no such labels"


def test_a_wrong_query_is_found(exported: Exported) -> None:
    for expression in ("sum(poolservice_calls)", "sum by (device) (poolservice_ready)", 'poolservice_ready{code="OK"}'):
        with pytest.raises(AssertionError):
            test_a_query_names_metrics_and_labels_that_exist(Query("wrong", expression), exported)
    with pytest.raises(AssertionError):
        test_a_query_selects_values_that_exist(Query("wrong", 'poolservice_drops_total{reason="bored"}'), exported)
