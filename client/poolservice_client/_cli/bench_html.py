"""The report of `poolservice bench` as one HTML file that loads nothing and runs no script."""

from collections.abc import Sequence
from html import escape as escape_html

from poolservice_client._cli import bench_svg
from poolservice_client._cli.bench_charts import charts, facts
from poolservice_client._cli.bench_report import Report
from poolservice_client._cli.message_text import escape

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
table.numbers th, table.numbers td { text-align: right; font-variant-numeric: tabular-nums; }
code { overflow-wrap: anywhere; }
svg { width: 100%; margin: 0.5rem 0; font-size: 12px; }
svg .title { font-size: 14px; font-weight: 600; }
svg polyline { fill: none; stroke-width: 2; }
svg .grid { stroke: #e4e4e4; }
svg .axis { stroke: #444; }
svg .knee { stroke: #444; stroke-dasharray: 2 3; }
"""


def page(report: Report) -> str:
    """Return the report as an HTML page. All texts are escaped: a server's and a file's may be hostile."""
    headings, rows = report.table()
    # Nothing but the style may take effect, even if an escape were missing.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            f'<head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(report.title)}</title><style>{_STYLE}</style></head>",
            f"<body><h1>{_text(report.title)}</h1>",
            "<table>",
            *(f"<tr><th>{_text(name)}</th><td>{_value(name, value)}</td></tr>" for name, value in facts(report)),
            "</table>",
            *(bench_svg.draw(chart) for chart in charts(report)),
            '<table class="numbers">',
            _row("th", headings),
            *(_row("td", row) for row in rows),
            "</table>",
            *(f"<p>{_text(note)}</p>" for note in report.notes()),
            "</body></html>",
            "",
        ]
    )


def _row(tag: str, cells: Sequence[str]) -> str:
    return "".join(["<tr>", *(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells), "</tr>"])


def _value(name: str, value: str) -> str:
    return f"<code>{_text(value)}</code>" if name == "command" else _text(value)


def _text(text: str) -> str:
    return escape_html(escape(text))
