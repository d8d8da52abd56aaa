"""The queries by which the autoscalers learn how long requests wait, evaluated by Prometheus' own test tool."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.kubernetes.variants import KUBERNETES

METRIC = "poolservice_request_stage_duration_seconds"
MATCHERS = 'namespace="poolservice",pod=~"busy|idle"'


def _queries() -> dict[str, str]:
    """Return the query of each autoscaler; prometheus-adapter fills in its template as its documentation says."""
    adapter = yaml.safe_load((KUBERNETES / "components/autoscaling/prometheus-adapter-values.yaml").read_text())
    scaled = yaml.safe_load((KUBERNETES / "components/autoscaling-keda/scaled-object.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", MATCHERS)
    assert "<<" not in query
    return {"adapter": query, "keda": scaled["spec"]["triggers"][0]["metadata"]["query"]}


def _series(pod: str, stage: str, seconds: float, requests: float) -> list[dict[str, str]]:
    """Return the series of a pod to which `requests` that took `seconds` in all are added every 15 s."""
    labels = f'{{namespace="poolservice",pod="{pod}",worker="0",stage="{stage}"}}'
    return [
        {"series": f"{METRIC}_sum{labels}", "values": f"0+{seconds}x40"},
        {"series": f"{METRIC}_count{labels}", "values": f"0+{requests}x40"},
    ]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_the_queries_return_the_mean_waiting_time(tmp_path: Path) -> None:
    queries = _queries()
    series = [
        # 100 requests wait 30 ms each, and compute for 1 s, which must not count.
        *_series("busy", "queue", 3, 100),
        *_series("busy", "compute", 100, 100),
        *_series("idle", "queue", 0, 0),
    ]
    expected = {
        # For each pod: 30 ms, and 0 without requests.
        "adapter": [{"labels": '{pod="busy"}', "value": 0.03}, {"labels": '{pod="idle"}', "value": 0}],
        # For all pods together.
        "keda": [{"labels": "{}", "value": 0.03}],
    }
    tests = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": series,
                "promql_expr_test": [
                    {"expr": query, "eval_time": "5m", "exp_samples": expected[name]} for name, query in queries.items()
                ],
            }
        ],
    }
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "tests.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
