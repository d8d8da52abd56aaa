"""`poolservice-server tune` with real servers and a real load: its report, its file, and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from poolservice_server.testing import Service
from poolservice_server.tune.candidates import TUNED
from poolservice_server.tune.command import main

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "server/deploy/tune/jobs.toml"
SMALL = '[[job]]\nname = "small"\nshape = [2, 4, 4]\nspecs = ["gap2d"]\nconcurrency = 2\n'
CPU = ("--device", "cpu")


def tune(*arguments: object, seconds: float = 1) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "poolservice_server", "tune", *map(str, arguments), "--seconds", str(seconds)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.toml"
    path.write_text(SMALL)
    return path


def test_the_written_file_replaces_the_old_one_and_starts_a_server(
    jobs: Path, tmp_path: Path, start_server: Callable[..., Service]
) -> None:
    target = tmp_path / "settings.toml"
    target.write_text("mine")
    done = tune(jobs, *CPU, "--max-queue-items", "77", "--write", target, "--force", "--json", seconds=6)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["settings"]) == set(TUNED)
    assert report["trials"] or report["not_tried"]
    assert all(trial["decision"] for trial in report["trials"])
    assert report["before"][0]["job"] == "small"
    assert report["before"][0]["requests_per_second"] > 0
    assert not report["interrupted"]
    text = target.read_text()
    assert text.startswith("# Written by poolservice-server tune jobs.toml")
    assert "max_queue_items = 77" in text
    for name, value in report["changed"].items():
        assert f"{name} = {value}" in text
    assert {path.name for path in tmp_path.iterdir()} == {"jobs.toml", "settings.toml"}
    start_server("--config", str(target))


def test_check_measures_the_example_with_the_settings_and_with_the_defaults() -> None:
    done = tune(EXAMPLE, *CPU, "--check", "--workers", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # Nothing is chosen, so the columns ratio and decision would be empty.
    assert re.fullmatch(r"setting +job +requests/s +p50 ms +p99 ms +memory", lines[0])
    assert re.match(r"defaults +photographs +[\d,]+ +[\d.]+ +[\d.]+ +\d", lines[1])
    assert re.match(r" +small tensors +[\d,]+ ", lines[2])
    assert re.match(r"your settings +photographs +[\d,]+ ", lines[3])
    assert re.fullmatch(r"your settings give [\d.]+ times the throughput \(noise [\d.]+%\) of the defaults", lines[-1])
    assert " is serving at 127.0.0.1:" in done.stderr


def test_a_job_that_the_server_refuses_is_reported_in_its_words(tmp_path: Path) -> None:
    path = tmp_path / "jobs.toml"
    path.write_text('[[job]]\nname = "flat"\nshape = [4]\nspecs = ["gap2d"]\n')
    # The measured server is on this machine only, and needs neither tokens nor metrics.
    done = tune(path, *CPU, "--address", "0.0.0.0:50051", "--auth-token-file", "missing", "--metrics-address", "x:1")
    assert done.returncode == 1
    assert done.stdout == ""
    words = "poolservice-server tune: the job 'flat' failed: INVALID_ARGUMENT: tensor.shape"
    assert done.stderr.splitlines()[-1].startswith(words)


def test_settings_with_which_no_server_starts_are_reported_in_its_words(jobs: Path) -> None:
    done = tune(jobs, "--backbones", "/missing")
    assert done.returncode == 1
    assert done.stderr == ("poolservice-server tune: cannot read --backbones /missing: No such file or directory\n")


def test_a_signal_prints_what_is_known_and_stops_the_servers(jobs: Path) -> None:
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "poolservice_server", "tune", str(jobs), *CPU, "--seconds", "600"],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    process_group=0,
                )
            )
            for _ in range(2)
        ]
        addresses = [process.stderr.readline().split()[-1] for process in processes if process.stderr]
        # Ctrl-C reaches the whole group, and an orchestrator's signal only the process.
        os.killpg(processes[0].pid, signal.SIGINT)
        processes[1].terminate()
        for process in processes:
            output, errors = process.communicate(timeout=100)
            assert process.returncode == 130
            assert "interrupted; this is what is known:" in errors
            assert "Traceback" not in errors
            assert output.startswith("setting ")
            assert "use your own settings" in output
    for address in addresses:
        host, port = address.split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))


def test_an_existing_file_is_overwritten_with_force_only(
    jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "settings.toml"
    target.write_text("mine")
    assert main([str(jobs), *CPU, "--write", str(target)]) == 2
    assert capsys.readouterr().err == (
        f"poolservice-server tune: {target} exists; add --force to overwrite it, or write another file (--write)\n"
    )
    assert target.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.toml"], "cannot read the jobs file missing.toml: No such file or directory"),
        (["{jobs}", "--adress", "x"], "unknown argument --adress; did you mean --address?"),
        (
            ["{jobs}", "--secnds", "3"],
            "unknown argument --secnds; did you mean --seconds? (poolservice-server tune --help lists the flags)",
        ),
        (["{jobs}", "--workers", "0"], "workers (--workers, POOLSERVICE_WORKERS): must be greater than or equal to 1"),
        (["{jobs}", "--seconds", "soon"], "invalid value for '--seconds'"),
        (["{jobs}", "--write", "/missing/settings.toml"], "there is no folder /missing (--write)"),
        (["{jobs}", "--write", "/tmp"], "/tmp is a folder; name a file (--write)"),
        (["{jobs}", "--check"], "--check compares settings with the defaults, and these settings are the defaults"),
        (["{jobs}", "--write", "x.toml", "--check"], "--check chooses nothing that --write could write"),
        ([], "missing argument 'JOBS.toml'"),
    ],
)
def test_a_wrong_command_line_is_a_sentence(
    jobs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([argument.format(jobs=jobs) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"poolservice-server tune: {words}")
