"""What the files in server/deploy/observe say: the queries of the dashboard, the rules and the alerts."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
OBSERVE = ROOT / "server" / "deploy" / "observe"
GUIDE = ROOT / "server" / "OPERATING.md"

Json = dict[str, Any]


class Query(NamedTuple):
    """An expression, and where it is written; the legend of a panel's line, or the texts of an alert."""

    place: str
    expression: str
    text: str = ""

    def __str__(self) -> str:
        return self.place


def load_yaml(name: str) -> Json:
    """Return a YAML file of the folder."""
    loaded: Json = yaml.safe_load((OBSERVE / name).read_text())
    return loaded


def dashboard() -> Json:
    """Return the dashboard."""
    loaded: Json = json.loads((OBSERVE / "grafana" / "dashboard.json").read_text())
    return loaded


def dashboard_queries() -> list[Query]:
    """Return the queries of all panels, with values for Grafana's variables."""
    queries = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
            queries.append(Query(f"{panel['title']} {target['refId']}", expression, target["legendFormat"]))
    return queries


def rules() -> list[Json]:
    """Return all recording rules and alerts."""
    return [rule for group in load_yaml("alerts.yml")["groups"] for rule in group["rules"]]


def alerts() -> list[Json]:
    """Return the alerts."""
    return [rule for rule in rules() if "alert" in rule]


def rule_queries() -> list[Query]:
    """Return the expressions of all recording rules and alerts."""
    return [
        Query(rule.get("alert") or rule["record"], rule["expr"], " ".join(rule.get("annotations", {}).values()))
        for rule in rules()
    ]


def guide_queries() -> list[Query]:
    """Return the queries of the operator's guide."""
    text = GUIDE.read_text()
    return [
        Query(f"OPERATING.md:{text[: match.start()].count(chr(10)) + 1}", match[1])
        for match in re.finditer(r"^```promql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def label_references(text: str) -> set[str]:
    """Return the labels that a legend or an annotation shows: `{{code}}`, `{{ $labels.code }}`."""
    return set(re.findall(r"\{\{\s*(?:\$labels\.)?(?!\$)(\w+)\b[^}]*\}\}", text))
