"""Write grafana/dashboard.json, the dashboard that Grafana provisions, from the panels in dashboard.toml.

    python server/deploy/observe/dashboard.py

The layout of the document is that of Grafana's dashboard schema, version 39, which Grafana 11 and later read.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PANELS = FOLDER / "dashboard.toml"
DASHBOARD = FOLDER / "grafana" / "dashboard.json"

_COLUMNS = 24
_WIDTH = 8
_HEIGHTS = {"stat": 4, "timeseries": 8, "heatmap": 9, "table": 6}
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


def document() -> str:
    """Return the text of the dashboard."""
    rows = tomllib.loads(PANELS.read_text())["rows"]
    dashboard: Json = {
        "uid": "poolservice",
        "title": "poolservice",
        "description": "Is it healthy, how loaded is it, why is it slow, and who calls. See server/OPERATING.md.",
        "tags": ["poolservice"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource_choice(), _instance_choice()]},
        "annotations": {"list": [_restarts()]},
        "links": [],
        "panels": _panels(rows),
    }
    return json.dumps(dashboard, indent=1, ensure_ascii=False) + "\n"


def _datasource_choice() -> Json:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {"selected": True, "text": "Prometheus", "value": "prometheus"},
    }


def _instance_choice() -> Json:
    query = 'label_values(up{job="poolservice"}, instance)'
    return {
        "name": "instance",
        "label": "Target",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": "instance"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _restarts() -> Json:
    return {
        "name": "Starts",
        "enable": True,
        "hide": False,
        "iconColor": "blue",
        "datasource": _DATASOURCE,
        "target": {
            "expr": 'changes(process_start_time_seconds{job="poolservice",instance=~"$instance"}[1m]) > 0',
            "refId": "Starts",
        },
        "titleFormat": "{{instance}} worker {{worker}} started",
    }


def _panels(rows: list[Json]) -> list[Json]:
    """Return the panels of all rows, each row below the one before and its panels from left to right."""
    panels: list[Json] = []
    top = 0
    for row in rows:
        panels.append(_row(row["title"], len(panels) + 1, top))
        top += 1
        left = height = 0
        for panel in row["panels"]:
            kind, width = panel.get("kind", "timeseries"), panel.get("width", _WIDTH)
            if left + width > _COLUMNS:
                left, top, height = 0, top + height, 0
            height = max(height, _HEIGHTS[kind])
            position = {"x": left, "y": top, "w": width, "h": _HEIGHTS[kind]}
            panels.append(_panel(panel, kind, len(panels) + 1, position))
            left += width
        top += height
    return panels


def _row(title: str, number: int, top: int) -> Json:
    position = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": position, "panels": []}


def _panel(panel: Json, kind: str, number: int, position: Json) -> Json:
    return {
        "id": number,
        "type": kind,
        "title": panel["title"],
        "description": panel["about"],
        "datasource": _DATASOURCE,
        "gridPos": position,
        "targets": [_target(query, kind, index) for index, query in enumerate(panel["queries"])],
        "fieldConfig": {"defaults": _defaults(panel, kind), "overrides": []},
        "options": _OPTIONS[kind] if kind != "heatmap" else _heatmap(panel["unit"]),
    } | ({"transformations": _TABLE_COLUMNS} if kind == "table" else {})


def _target(query: Json, kind: str, index: int) -> Json:
    now = kind in ("stat", "table")
    return {
        "refId": "ABCDEFGH"[index],
        "datasource": _DATASOURCE,
        "expr": query["expr"],
        "legendFormat": query["legend"],
        "format": {"heatmap": "heatmap", "table": "table"}.get(kind, "time_series"),
        "range": not now,
        "instant": now,
    }


def _defaults(panel: Json, kind: str) -> Json:
    defaults: Json = {"unit": panel.get("unit", "short"), "thresholds": _thresholds(panel)}
    if kind == "timeseries":
        stacked = panel.get("stacked", False)
        defaults |= {"min": 0, "color": {"mode": "palette-classic"}}
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 25 if stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        }
    elif kind == "stat":
        defaults["color"] = {"mode": "thresholds"}
    if "max" in panel:
        defaults["max"] = panel["max"]
    return defaults


def _thresholds(panel: Json) -> Json:
    """Return the colors of values: green, yellow from `warn` and red from `alarm` on, or red below it if `low`."""
    if panel.get("low"):
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel["alarm"]}]
    else:
        limits = {"yellow": panel.get("warn"), "red": panel.get("alarm")}
        steps = [{"color": color, "value": value} for color, value in limits.items() if value is not None]
        steps.insert(0, {"color": "green", "value": None})
    return {"mode": "absolute", "steps": steps}


def _heatmap(unit: str) -> Json:
    return {
        "calculate": False,
        "yAxis": {"unit": unit, "axisPlacement": "left"},
        "color": {
            "mode": "scheme",
            "scheme": "Blues",
            "reverse": False,
            "fill": "dark-blue",
            "steps": 64,
            "scale": "exponential",
            "exponent": 0.5,
        },
        "cellGap": 1,
        "filterValues": {"le": 1e-9},
        "tooltip": {"mode": "single", "yHistogram": False},
        "legend": {"show": True},
    }


_REDUCED = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: dict[str, Json] = {
    "stat": {"reduceOptions": _REDUCED, "colorMode": "value", "graphMode": "none", "textMode": "value"},
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": {"showHeader": True},
}
_TABLE_COLUMNS: list[Json] = [
    {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True, "__name__": True, "job": True}}}
]


if __name__ == "__main__":
    DASHBOARD.write_text(document())
