"""`poolservice bench` with calls on a schedule, and its report as a file."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image
from tests.cli.bench_process import bench_process

from poolservice import __version__
from poolservice_server.testing import Service

Command = Callable[..., CompletedProcess[str]]

FAILED, USAGE, INTERRUPTED = 1, 2, 130
QUICK = ("--duration", 0.2, "--warm-up", 0)
SMALL = ("--shape", "8x8x8")


@pytest.fixture
def bench(entry_point: Command, server_address: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command with the shared server in this process, with tables that have room for any number."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> CompletedProcess[str]:
        return entry_point("bench", server_address, *arguments)

    return run


def test_the_table_has_a_row_for_each_rate(bench: Command) -> None:
    done = bench(*SMALL, "--rate", 50, "-r", 100, "--arrivals", "constant", *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    _, table, notes = done.stdout.split("\n\n")
    headings, *rows = table.splitlines()
    assert re.split(" {2,}", headings.strip()) == [
        *("rate", "calls/s", "p50", "p90", "p99", "max", "decode", "queue", "compute", "rest", "batch"),
        *("errors", "refused", "not started"),
    ]
    assert [row.split()[0] for row in rows] == ["50", "100"]
    for row in rows:
        _, _, p50, p90, p99, longest, *_, errors, refused, not_started = row.split()
        assert 0 < float(p50) <= float(p90) <= float(p99) <= float(longest)
        assert (errors, refused, not_started) == ("0", "0", "0")
    assert "Latencies count from the time at which a call was due." in notes
    assert "Knee: " in notes


def test_every_scheduled_call_is_in_the_json(bench: Command, server_address: str) -> None:
    flags = ("--rate", 100, "--arrivals", "constant", "--duration", 0.305, "--warm-up", 0, "--json")
    done = bench(*SMALL, *flags)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["rows"]
    assert (row["rate"], row["arrivals"], row["max_outstanding"]) == (100, "constant", 1000)
    # Calls are due at 10, 20, ..., 300 ms.
    assert (row["calls"], row["refused"], row["not_started"], row["errors"]) == (30, 0, 0, [])
    assert row["latency_ms"]["max"] >= row["start_delay_ms"]["p50"] >= 0
    assert (report["workers"], report["capacity"], report["knee"]) == (1, None, None)
    assert report["command"] == " ".join(map(str, ("poolservice", "bench", server_address, *SMALL, *flags)))
    assert datetime.fromisoformat(report["date"]).tzinfo is not None


def test_a_large_payload_has_fewer_calls_in_flight(bench: Command) -> None:
    done = bench("--shape", "32x256x256", "--rate", 10, "--duration", 0.05, "--warm-up", 0, "--json")
    assert done.returncode == 0, done.stderr
    # 256 MiB of 8 MiB each.
    assert json.loads(done.stdout)["rows"][0]["max_outstanding"] == 32


def test_an_image_can_be_sent_at_a_rate(bench: Command, photograph: Path) -> None:
    done = bench("--op", "gap2d", "-i", photograph, "--rate", 20, *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["mean_ms"]["decode"] > 0
    assert row["errors"] == []


def test_a_sweep_measures_rates_up_to_above_the_capacity(bench: Command) -> None:
    # The default limit is ten times the median at the lowest rate, where on a busy machine no call may be complete.
    flags = ("--duration", 0.2, "--warm-up", 0, "--max-outstanding", 64, "--p99", 1000)
    done = bench(*SMALL, "--sweep", *flags, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["capacity"]["concurrency"] == 32
    capacity = report["capacity"]["calls_per_second"]
    rates = [row["rate"] for row in report["rows"]]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(capacity * 0.1, rel=0.05)
    assert rates[-1] == pytest.approx(capacity * 1.2, rel=0.05)
    assert report["knee"]["calls_per_second"] in [*rates, None]
    assert report["knee"]["p99_limit_ms"] == 1000


def test_refusals_are_counted_and_are_no_failure(start_server: Callable[..., Service], offline: Command) -> None:
    address = start_server("--caller-max-rate", "5").address
    done = offline("bench", address, *SMALL, "--rate", 200, "--no-coalesce", *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["rows"]
    assert row["refused"] > 0
    assert [error["kind"] for error in row["errors"]] == ["Overloaded"]
    # A refused call is not sent again, because retries would be load that the schedule does not have.
    assert report["client"]["retries"] == 0


def test_a_server_that_stands_still_costs_errors_and_calls_that_do_not_start(
    start_server: Callable[..., Service],
) -> None:
    server = start_server()
    flags = ("--rate", "100", "--arrivals", "constant", "--duration", "2.005", "--warm-up", "0", "--no-coalesce")
    with bench_process(server.address, *flags, "--timeout", "0.5", "--max-outstanding", "2") as (process, wait_for):
        wait_for("100 calls per second")
        server.process.send_signal(signal.SIGSTOP)
        try:
            stdout, _ = process.communicate(timeout=60)
        finally:
            server.process.send_signal(signal.SIGCONT)
    assert process.returncode == FAILED
    (row,) = json.loads(stdout)["rows"]
    errors = {error["kind"]: error["count"] for error in row["errors"]}
    assert set(errors) == {"DeadlineExceeded"}
    assert row["not_started"] > 0
    assert row["calls"] + errors["DeadlineExceeded"] + row["not_started"] == 200


def test_an_interrupted_run_keeps_its_rates_and_its_report(server_address: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    flags = ("--rate", "50", "--rate", "70", "--duration", "1", "--report", str(file))
    with bench_process(server_address, *flags) as (process, wait_for):
        wait_for("70 calls per second")
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    report = json.loads(stdout)
    assert report["interrupted"] is True
    complete, *partial = report["rows"]
    assert (complete["rate"], complete["calls"] > 0) == (50, True)
    assert [row["rate"] for row in partial] in ([], [70])
    assert "The run was interrupted" in file.read_text()


class _Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_html_report_is_complete_and_loads_nothing(bench: Command, server_address: str, tmp_path: Path) -> None:
    flags = ("--rate", 50, "--rate", 90, *QUICK, "--report", "load.html")
    done = bench(*SMALL, *flags)
    assert done.returncode == 0, done.stderr
    source = (tmp_path / "load.html").read_text()
    page = _Page(source)
    assert page.tags.count("svg") == 3
    assert page.tags.count("table") == 2
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not {"src", "href", "onload", "style"} & page.attributes
    assert "http://" not in source
    assert "https://" not in source
    texts = " ".join(page.texts)
    for words in (
        f"poolservice {__version__}",
        server_address,
        "GlobalAvgPool2d() of (8, 8, 8) float32",
        "--rate 50 --rate 90",
        "Latency over load",
        "Throughput over load",
        "Parts of the mean latency",
        *("p50", "p90", "p99", "max", "decode", "queue", "compute", "rest", "refused", "not started"),
    ):
        assert words in texts
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", texts)
    assert "Knee: " in texts


def test_the_html_report_of_a_closed_loop_shows_concurrencies(bench: Command, tmp_path: Path) -> None:
    done = bench(*SMALL, "-c", 1, "-c", 3, *QUICK, "--report", "load.html")
    assert done.returncode == 0, done.stderr
    texts = _Page((tmp_path / "load.html").read_text()).texts
    assert "concurrent calls" in texts
    assert "scheduled" not in texts


def test_hostile_names_are_escaped_in_the_html_report(bench: Command, tmp_path: Path) -> None:
    name = "<script>alert('1')<&lt;\u202e.npy"
    np.save(tmp_path / name, np.ones((1, 4, 4), np.float32))
    done = bench("--input", name, "--rate", 50, *QUICK, "--report", "load.html")
    assert done.returncode == 0, done.stderr
    page = _Page((tmp_path / "load.html").read_text())
    assert "script" not in page.tags
    # Nor are characters that reverse the direction of the text left in it.
    assert any(r"<script>alert('1')<&lt;\u202e.npy" in text for text in page.texts)


def test_the_png_report_is_an_image(bench: Command, tmp_path: Path) -> None:
    done = bench(*SMALL, "--rate", 50, "--rate", 90, *QUICK, "--report", "load.PNG")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "load.PNG") as image:
        image.load()
        assert (image.format, image.width >= 800, image.height >= 1000) == ("PNG", True, True)


def test_the_png_report_needs_matplotlib(server_address: str, tmp_path: Path) -> None:
    script = "import sys; sys.modules['matplotlib'] = None; from poolservice_client.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "bench", server_address, "--report", str(tmp_path / "load.png")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr == "poolservice: --report needs matplotlib; install it with: pip install matplotlib\n"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--p99", "5"], USAGE, "--p99 is a limit for the knee of several rates; give --sweep or --rate, too"),
        (["--rate", "5", "-c", "2"], USAGE, "--concurrency, --rate and --sweep are three ways to choose the load"),
        (["--rate", "5", "--sweep"], USAGE, "give one of them"),
        (["--report", "load.pdf"], USAGE, "--report load.pdf: the file's name must end in .html or .png"),
        (["--report", "missing/load.html"], USAGE, "--report missing/load.html: there is no folder missing"),
        (["--rate", "0"], USAGE, "--rate"),
        (["--rate", "1e9"], USAGE, "--rate"),
        (["--rate", "nan"], USAGE, "--rate"),
        (["--duration", "nan"], USAGE, "--duration"),
        (["--p99", "inf"], USAGE, "--p99"),
        (["--rate", "1", "--arrivals", "uniform"], USAGE, "'poisson', 'constant'"),
    ],
)
def test_a_wrong_load_is_reported_before_anything_is_measured(
    bench: Command, arguments: list[str], status: int, words: str
) -> None:
    done = bench(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr


def test_a_report_that_cannot_be_written_keeps_the_figures(bench: Command, tmp_path: Path) -> None:
    (tmp_path / "load.html").mkdir()
    done = bench(*SMALL, "--rate", 50, *QUICK, "--json", "--report", "load.html")
    assert done.returncode == FAILED
    assert json.loads(done.stdout)["rows"]
    assert done.stderr == "poolservice: load.html: Is a directory\n"
