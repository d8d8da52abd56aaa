"""`poolservice bench`: its measurements and its report."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.cli.bench_process import bench_process

from poolservice_server.testing import Service

Command = Callable[..., CompletedProcess[str]]

FAILED, USAGE, INTERRUPTED = 1, 2, 130
QUICK = ("--duration", 0.3, "--warm-up", 0.1)


def test_the_table_has_a_row_for_each_concurrency(command: Command, server_address: str) -> None:
    done = command("bench", server_address, "--shape", "8x8x8", "-c", 1, "-c", 4, *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    title, job, _, headings, *lines = done.stdout.splitlines()
    assert title.startswith("poolservice ")
    assert title.endswith(f" at {server_address} on cpu")
    assert job == "GlobalAvgPool2d() of (8, 8, 8) float32, 2,048 bytes per call"
    assert headings.split()[:3] == ["concurrency", "calls/s", "p50"]
    rows = [line.split() for line in lines[:2]]
    assert [row[0] for row in rows] == ["1", "4"]
    for _, rate, p50, p90, p99, decode, queue, compute, rest, batch, errors in rows:
        assert float(rate.replace(",", "")) > 0
        assert 0 < float(p50) <= float(p90) <= float(p99)
        assert float(decode) == 0
        assert min(float(queue), float(compute)) >= 0
        assert float(rest) > 0
        assert float(batch) >= 1
        assert errors == "0"


def test_the_parts_of_the_latency_add_up_for_an_image(command: Command, photograph: Path) -> None:
    done = command("bench", "--op", "max2d", "--kernel-size", 8, "-i", photograph, "-c", 2, *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["job"]["payload_bytes"] == photograph.stat().st_size
    assert report["job"]["specs"] == ["MaxPool2d(kernel_size=8)"]
    assert report["interrupted"] is False
    (row,) = report["rows"]
    assert row["calls"] > 0
    assert row["calls"] == pytest.approx(row["calls_per_second"] * row["seconds"])
    assert row["devices"] == {"cpu": row["calls"]}
    assert row["errors"] == []
    client = report["client"]
    # Calls in one message, and those before the measurement, count too.
    assert client["calls"] + client["coalesced_calls"] - client["coalesced_messages"] > row["calls"]
    parts, latency = row["mean_ms"], row["latency_ms"]
    assert parts["decode"] > 0
    assert 0 < sum(parts.values()) <= latency["max"]
    # With two calls always in flight, the mean latency is 2 / rate, except at the ends of the run.
    assert sum(parts.values()) <= 2000 / row["calls_per_second"] * 1.01


def test_any_dtype_and_several_operators_can_be_measured(command: Command) -> None:
    arguments = ["--op", "gap2d", "--op", "gmp2d", "--shape", "4x6x6", "--dtype", "bfloat16", "--features"]
    done = command("bench", *arguments, "-c", 1, *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    assert (job["input"], job["payload_bytes"]) == ("(4, 6, 6) bfloat16", 288)
    assert (len(job["specs"]), job["output"]) == (2, "features")


@pytest.mark.parametrize("columns", ["40", "60", "80", None])
def test_the_table_never_cuts_a_number(command: Command, server_address: str, columns: str | None) -> None:
    arguments = ["bench", server_address, "--shape", "8x8x8", "-c", 1, "-c", 8, "-c", 32, *QUICK]
    done = command(*arguments, COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout
    if columns:
        assert max(map(len, done.stdout.splitlines())) <= int(columns)
    table = [line.split() for line in done.stdout.split("\n\n")[1].splitlines()]
    # The table is transposed if it is too wide.
    if table[0][1] != "calls/s":
        table = [list(row) for row in zip(*table, strict=True)]
    headings, *rows = table
    assert headings == [
        "concurrency",
        "calls/s",
        "p50",
        "p90",
        "p99",
        "decode",
        "queue",
        "compute",
        "rest",
        "batch",
        "errors",
    ]
    assert [row[0] for row in rows] == ["1", "8", "32"]
    for row in rows:
        assert [number for number in row if not re.fullmatch(r"[\d,]+(\.\d+)?", number)] == []


def test_small_calls_are_coalesced_unless_disabled(command: Command) -> None:
    arguments = ["bench", "--shape", "8x8x8", "-c", 16, *QUICK, "--json"]
    coalesced, separate = (json.loads(command(*arguments, *flags).stdout) for flags in ((), ("--no-coalesce",)))
    # Sixteen callers need far fewer messages than calls if their calls are coalesced.
    assert coalesced["client"]["calls"] < coalesced["rows"][0]["calls"] / 2
    assert separate["client"]["calls"] > separate["rows"][0]["calls"]


def test_failed_calls_are_counted_and_reported(start_server: Callable[..., Service]) -> None:
    server = start_server()
    with bench_process(server.address, "-c", "3", "--duration", "2", "--warm-up", "0", "--timeout", "0.5") as (
        process,
        wait_for,
    ):
        wait_for("3 concurrent calls")
        server.kill()
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == FAILED
    (row,) = json.loads(stdout)["rows"]
    assert sum(error["count"] for error in row["errors"]) >= 3
    assert {error["kind"] for error in row["errors"]} <= {"Unavailable", "DeadlineExceeded"}
    assert all(server.address in error["first"] for error in row["errors"])


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--op", "max2"], USAGE, "no operator 'max2'"),
        (["--shape", "3by4"], USAGE, "--shape takes sizes from channels to width, such as 3x224x224; got '3by4'"),
        (["--shape", "3"], USAGE, "--shape takes sizes"),
        (["--dtype", "bool"], USAGE, "--dtype takes one of float32"),
        (["--dtype", "uint8", "--input", "x.jpg"], USAGE, "leave them out with --input"),
        (["--input", "missing.jpg"], FAILED, "missing.jpg: No such file"),
        (["--shape", "3x4x4", "--op", "max2d:kernel_size=5"], FAILED, "max2d:kernel_size=5: kernel_size: no window"),
        (["--shape", "3x4x4", "--color-mode", "GRAY"], FAILED, "--color-mode: is for images"),
        (["--dtype", "flaot32"], USAGE, "got 'flaot32'; did you mean float32?"),
    ],
)
def test_an_error_is_reported_before_anything_is_measured(
    entry_point: Command, server_address: str, arguments: list[str], status: int, words: str
) -> None:
    done = entry_point("bench", server_address, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("poolservice: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_no_server_responds(offline: Command, unused_address: str) -> None:
    done = offline("bench", unused_address)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr.startswith(f"poolservice: no server answers at {unused_address}")


def test_an_interrupted_run_prints_its_measurements(server_address: str) -> None:
    with bench_process(server_address, "-c", "1", "-c", "7", "--duration", "2") as (process, wait_for):
        wait_for("7 concurrent calls")
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    report = json.loads(stdout)
    assert report["interrupted"] is True
    complete, *partial = report["rows"]
    assert (complete["concurrency"], complete["calls"] > 0) == (1, True)
    assert [row["concurrency"] for row in partial] in ([], [7])
