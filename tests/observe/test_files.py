"""The dashboard, the alerts and their configuration are complete and agree with one another."""

import importlib.util
import re
import shutil
import subprocess

import pytest
import yaml
from tests.docs.test_links import fragments
from tests.observe.documents import GUIDE, OBSERVE, Json, alerts, dashboard, load_yaml, rules

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed (Debian: prometheus)")


def promtool(*arguments: str) -> None:
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *arguments], cwd=OBSERVE, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_the_one_of_its_table() -> None:
    specification = importlib.util.spec_from_file_location("dashboard", OBSERVE / "dashboard.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.document() == (OBSERVE / "grafana" / "dashboard.json").read_text(), (
        "run `python server/deploy/observe/dashboard.py`"
    )


def test_panels_have_numbers_and_places_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    fields: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
        taken = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not fields & taken, f"{panel['title']} covers another panel"
        fields |= taken


def test_the_dashboard_answers_the_questions_of_an_operator() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert rows[:4] == ["Is it healthy?", "How loaded is it?", "Why is it slow?", "Who calls?"]
    assert all(panel["description"].endswith(".") for panel in dashboard()["panels"] if panel["type"] != "row")


def test_grafana_finds_the_data_source_and_the_dashboard() -> None:
    (source,) = load_yaml("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    (choice,) = [one for one in dashboard()["templating"]["list"] if one["type"] == "datasource"]
    assert choice["current"]["value"] == source["uid"]
    assert choice["query"] == source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == load_yaml("prometheus.yml")["global"]["scrape_interval"]
    (provider,) = load_yaml("grafana/provisioning/dashboards/poolservice.yml")["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def test_the_job_has_the_name_that_queries_select() -> None:
    jobs = [job["job_name"] for job in load_yaml("prometheus.yml")["scrape_configs"]]
    text = (OBSERVE / "alerts.yml").read_text() + (OBSERVE / "dashboard.toml").read_text()
    assert set(re.findall(r'job="(\w+)"', text)) == {"poolservice"} <= set(jobs)


def test_the_collector_receives_batches_and_exports_spans() -> None:
    collector = load_yaml("otel-collector.yaml")
    traces = collector["service"]["pipelines"]["traces"]
    assert set(traces["receivers"]) == set(collector["receivers"]) == {"otlp"}
    assert traces["processors"] == ["memory_limiter", "batch"] == list(collector["processors"])
    (exporter,) = traces["exporters"]
    default = re.fullmatch(r"\$\{env:TRACES_EXPORTER:-(.+)\}", exporter)
    assert default
    assert default[1] in collector["exporters"]
    for name in re.findall(r"TRACES_EXPORTER=(\S+)", (OBSERVE / "otel-collector.yaml").read_text()):
        assert name in collector["exporters"]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(alert: Json) -> None:
    assert set(alert) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    texts = alert["annotations"]
    assert set(texts) == {"summary", "description", "runbook"}
    assert texts["summary"].endswith(".")
    assert texts["description"].count(". ") >= 1, "one sentence for the fault and one for what to do"
    path, _, fragment = texts["runbook"].partition("#")
    assert path == "server/OPERATING.md"
    assert fragment.startswith(alert["alert"].lower())
    assert fragment in fragments(GUIDE)


def test_the_guide_has_no_runbook_for_an_alert_that_does_not_exist() -> None:
    named = set(re.findall(r"\bPoolservice[A-Z]\w+", GUIDE.read_text()))
    assert named == {alert["alert"] for alert in alerts()}


def test_the_guide_explains_every_metric() -> None:
    table = re.findall(r"^\| `(\w+)` \|", (GUIDE.parent / "METRICS.md").read_text(), re.MULTILINE)
    explained = GUIDE.read_text().partition("## What does each metric tell me?")[2].partition("\n## ")[0]
    metrics = [name for name in table if name.startswith(("poolservice_", "process_"))]
    assert len(metrics) > 40
    assert [name for name in metrics if f"`{name}`" not in explained] == []


def test_every_recorded_series_is_used() -> None:
    text = (OBSERVE / "alerts.yml").read_text() + (OBSERVE / "dashboard.toml").read_text()
    for rule in rules():
        if "record" in rule:
            assert text.count(rule["record"]) > 1, rule["record"]


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    cases = yaml.safe_load((OBSERVE / "alerts_test.yml").read_text())["tests"]
    fired = {
        name
        for case in cases
        for one in case["promql_expr_test"]
        for sample in one["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == {alert["alert"] for alert in alerts()}


def test_the_healthy_case_has_every_metric_of_the_alerts() -> None:
    healthy = yaml.safe_load((OBSERVE / "alerts_test.yml").read_text())["tests"][0]
    series = {one["series"].partition("{")[0] for one in healthy["input_series"]}
    expressions = " ".join(alert["expr"] for alert in alerts())
    assert set(re.findall(r"(?<![\w:])(?:poolservice|process)_\w+", expressions)) <= series
    assert all(one["exp_samples"] == [] for one in healthy["promql_expr_test"])


@needs_promtool
def test_prometheus_accepts_its_configuration() -> None:
    promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_alerts_fire_on_faults_only() -> None:
    promtool("test", "rules", "alerts_test.yml")
