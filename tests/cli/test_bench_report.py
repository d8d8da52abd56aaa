"""The reports of `poolservice bench` in cases that a healthy server does not cause."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from poolservice_client import ClientStats, DeviceInfo, Execution, Overloaded, PoolClient, ServerInfo
from poolservice_client._cli import bench_report_file
from poolservice_client._cli.bench_charts import charts
from poolservice_client._cli.bench_measurement import ClosedLoop, Load, Measurement, OpenLoop
from poolservice_client._cli.bench_report import Report, print_report
from poolservice_client._cli.bench_workload import Workload

OPTIONS = {"output": "tensor", "color_mode": None, "layout": "CHW", "backbone": None, "tap": None}


@pytest.fixture(scope="module")
def info(server_address: str) -> ServerInfo:
    """What a real server says of itself."""
    with PoolClient(server_address) as client:
        return client.server_info()


def _report(info: ServerInfo, rows: list[Measurement]) -> Report:
    return Report(
        address="pool:50051",
        server=info,
        client=ClientStats(),
        workload=Workload([], np.zeros(4), "(4,) float64", OPTIONS),
        rows=rows,
        capacity=None,
        knee=None,
        interrupted=True,
        command="poolservice bench pool:50051",
        date="2026-11-27 12:00:00+00:00",
    )


def _refused(load: Load) -> Measurement:
    row = Measurement(load, seconds=1.0)
    row.record_error(Overloaded("the queue is full"))
    return row


@pytest.mark.parametrize("name", ["report.html", "report.png"])
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [_refused(OpenLoop(100, "poisson", 10))],
        [_refused(ClosedLoop(1)), _refused(ClosedLoop(1))],
        [Measurement(OpenLoop(0.01, "constant", 10), seconds=1.0)],
    ],
    ids=["interrupted at once", "refused", "refused in a closed loop", "no call was due"],
)
def test_a_run_without_a_response_can_be_reported(
    info: ServerInfo, rows: list[Measurement], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _report(info, rows)
    bench_report_file.write(tmp_path / name, report)
    if name.endswith(".png"):
        with Image.open(tmp_path / name) as image:
            image.load()
    else:
        assert (tmp_path / name).read_text().endswith("</html>\n")
    print_report(report)
    assert "The run was interrupted" in capsys.readouterr().out
    assert len(report.as_json()["rows"]) == len(rows)


def test_refusals_have_a_line_in_the_chart_of_the_throughput(info: ServerInfo) -> None:
    chart = charts(_report(info, [_refused(OpenLoop(100, "poisson", 10))]))[1]
    assert {one.name: list(one.values) for one in chart.series} == {
        "scheduled": [100],
        "responses": [0],
        "refused": [1],
    }


def test_texts_of_a_hostile_server_are_escaped(info: ServerInfo, tmp_path: Path) -> None:
    hostile = "</td><script>alert(1)</script>\x1b[31m"
    server = ServerInfo(
        **{
            **{name: getattr(info, name) for name in ServerInfo.__slots__},
            "version": hostile,
            "devices": (DeviceInfo(hostile, hostile, hostile, hostile),),
        }
    )
    row = Measurement(OpenLoop(100, "poisson", 10), seconds=1.0)
    row.record_error(Overloaded(hostile))
    bench_report_file.write(tmp_path / "report.html", _report(server, [row]))
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.count("&lt;script&gt;") >= 4
    bench_report_file.write(tmp_path / "report.png", _report(server, [row]))


@pytest.mark.parametrize("milliseconds", [0.02, 1.3, 2.7, 5.1, 900.0])
def test_an_axis_has_ticks_around_any_value(info: ServerInfo, milliseconds: float, tmp_path: Path) -> None:
    row = Measurement(OpenLoop(100, "poisson", 10), seconds=1.0)
    row.record_success(milliseconds, Execution("cpu", 1, 0, 0, 0, 0))
    bench_report_file.write(tmp_path / "report.html", _report(info, [row]))
    latency, throughput, _ = (tmp_path / "report.html").read_text().split("</svg>")[:3]
    for chart in (latency, throughput):
        assert chart.count('class="grid"') >= 1
