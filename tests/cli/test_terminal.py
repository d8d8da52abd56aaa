"""The command with hostile text for the terminal, broken pipes, closed streams and endless files."""

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.hostile_attacks import CASES
from tests.client.hostile_server import hostile

from poolservice_client._cli.message_text import escape

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses descriptors, devices and any file names")

Command = Callable[..., CompletedProcess[str]]

FAILED, USAGE, INTERRUPTED = 1, 2, 130
SECONDS = 60.0
# A file name that turns the text red, clears the screen, starts a new line, reverses the text, and is not UTF-8.
HOSTILE = "\x1b[31m\x9b2J\nok: \u202eevil\udcff.npy"
ESCAPED = r"\x1b[31m\x9b2J\nok: \u202eevil\xff.npy"


def npy_file() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones((1, 2, 2)))
    return file.getvalue()


def shell(script: str, folder: Path, **variables: str) -> "CompletedProcess[bytes]":
    """Run a shell script in which $P is the command."""
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        cwd=folder,
        env={**os.environ, "P": f"{sys.executable} -m poolservice_client", **variables},
        timeout=SECONDS,
        check=False,
    )


@given(st.text())
def test_escaped_text_is_one_line_without_control_characters(text: str) -> None:
    escaped = escape(text)
    escaped.encode()
    assert len(escaped.splitlines()) <= 1
    assert re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", escaped) is None
    assert escape(escaped) == escaped


def test_text_of_any_language_is_not_escaped() -> None:
    for text in (
        "photo.jpg",
        "写真 1.jpg",
        "\u0646\u0645\u06cc\u200c\u062e\u0648.jpg",
        "Größe→x.npy",
        "👍🏽.png",
        "a\u00a0b",
    ):
        assert escape(text) == text


def test_a_hostile_file_name_is_escaped_wherever_it_is_printed(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.ones((1, 2, 2)))
    (tmp_path / HOSTILE).write_bytes(b"\x93NUMPY")
    for arguments, output in (
        (("pool", HOSTILE, "--op", "gap2d"), "stderr"),
        (("pool", f"missing{HOSTILE}", "--op", "gap2d"), "stderr"),
        (("pool", "good.npy", "--op", f"gap2d{HOSTILE}"), "stderr"),
        (("pool", "good.npy", "--op", "gap2d", "-o", f"{HOSTILE}z"), "stderr"),
        (("pool", "good.npy", "--op", "gap2d", "-o", f"out{HOSTILE}"), "stdout"),
        (("pool", "good.npy", HOSTILE, "--op", "gap2d"), "stderr"),
        (("map", "good.npy", HOSTILE, "--op", "gap2d", "-o", "f.npz"), "stderr"),
        (("map", "good.npy", "--op", "gap2d", "-o", f"map{HOSTILE}"), "stdout"),
        (("info", HOSTILE.replace("\udcff", "")), "stderr"),
    ):
        done = command(*arguments)
        text = getattr(done, output)
        assert r"\x1b[31m\x9b2J" in text, (arguments, done)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.stdout + done.stderr), arguments
        assert not re.search("^ok:", done.stdout + done.stderr, re.MULTILINE), arguments


def test_an_address_that_is_not_utf_8_is_a_usage_error(command: Command) -> None:
    for name in ("info", "health", "bench"):
        done = command(name, "\udcff:1")
        assert (done.returncode, done.stdout) == (USAGE, "")
        assert done.stderr == r"""poolservice: address: must be "host:port" in UTF-8; got '\udcff:1'""" + "\n"


def test_a_reader_that_has_read_enough_ends_the_command_silently(tmp_path: Path, server_address: str) -> None:
    for words in (f"info {server_address}", f"info {server_address} --json", "--help", "pool --help"):
        # The reader is gone before anything is written.
        done = shell(f"set -o pipefail; $P {words} | exec true; exit ${{PIPESTATUS[0]}}", tmp_path)
        assert (done.returncode in (0, FAILED), done.stderr) == (True, b""), words


def test_a_full_output_is_one_sentence(tmp_path: Path, server_address: str) -> None:
    for words in (f"info {server_address}", f"health {server_address}", "--version", "--help"):
        done = shell(f"$P {words} >/dev/full", tmp_path)
        assert (done.returncode, done.stderr) == (FAILED, b"poolservice: standard output: No space left on device\n")
    done = shell("$P pool missing.npy --op gap2d 2>/dev/full", tmp_path)
    assert (done.returncode, done.stdout) == (FAILED, b"")


def test_closed_streams_are_no_reason_for_a_traceback(tmp_path: Path, server_address: str) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 2, 2)))
    image = f"--address {server_address} --op gap2d"
    for words, status in (
        (f"health {server_address} <&- >&- 2>&-", 0),
        (f"info {server_address} >&-", 0),
        (f"pool x.npy {image} 2>&- >&-", 0),
        (f"map x.npy {image} -o f.npz <&- >&- 2>&-", 0),
        (f"pool - {image} <&-", FAILED),
        (f"map --from-file - {image} -o f.npz <&-", USAGE),
        (f"pool missing.npy {image} 2>&-", FAILED),
    ):
        done = shell(f"$P {words}", tmp_path)
        assert (done.returncode, done.stdout) == (status, b""), (words, done.stderr)
        assert b"Traceback" not in done.stderr
        assert done.stderr.count(b"\n") <= 1
    with np.load(tmp_path / "f.npz") as arrays:
        assert arrays["paths"].tolist() == ["x.npy"]


@pytest.mark.parametrize(
    "variables",
    [
        {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"TERM": "dumb", "COLUMNS": "20"},
        {"COLUMNS": "0"},
        {"COLUMNS": "-5", "LINES": "x"},
    ],
    ids=str,
)
def test_any_environment_gives_results_and_errors(
    command: Command, tmp_path: Path, server_address: str, variables: dict[str, str]
) -> None:
    name = "größe写真.npy"
    np.save(tmp_path / name, np.ones((1, 2, 2)))
    for arguments, status in (
        (("pool", name, "--op", "gap2d"), 0),
        (("pool", f"missing{name}", "--op", "gap2d"), FAILED),
        (("map", name, "--op", "gap2d", "-o", f"{name}.npz"), 0),
        (("info", server_address), 0),
        (("pool", "--help"), 0),
        (("pool",), USAGE),
    ):
        done = command(*arguments, **variables)
        assert done.returncode == status, (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def test_devices_folders_and_endless_files_are_refused(tmp_path: Path, server_address: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    with (tmp_path / "huge.npy").open("wb") as huge:
        huge.truncate(2**40)
    (tmp_path / "huge.jpg").symlink_to("huge.npy")
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    # Memory for the command itself, and far less than an endless file would need.
    limited = "ulimit -v 6000000; $P"
    options = f"--op gap2d --address {server_address} --max-message-bytes 1000000"
    for path, reason in (
        ("/dev/zero", "has more than 1,"),
        ("/dev/null", ""),
        ("folder.npy", "is a folder"),
        ("huge.npy", "has more than 1,"),
        ("huge.jpg", "has more than 1,"),
        ("loop.npy", "Too many levels of symbolic links"),
        ("'bad\udcff.npy'", "No such file"),
    ):
        for command in (f"pool {path}", f"map {path} -o f.npz"):
            done = shell(f"{limited} {command} {options}", tmp_path)
            assert done.returncode in (FAILED, USAGE), (command, done)
            assert reason in done.stderr.decode(), command
            assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["pipe.npy", "pipe.jpg"])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
def test_a_signal_ends_a_run_that_waits_for_a_named_pipe(
    tmp_path: Path, server_address: str, name: str, sent: signal.Signals
) -> None:
    os.mkfifo(tmp_path / name)
    os.mkfifo(tmp_path / "first.npy")
    process = subprocess.Popen(
        [sys.executable, "-m", "poolservice_client", "map", "first.npy", name, "--op", "gap2d", "-o", "f.npz",
         "--address", server_address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )  # fmt: skip
    # Opening a pipe waits until the command opens it; the second one is never written.
    (tmp_path / "first.npy").write_bytes(npy_file())
    process.send_signal(sent)
    try:
        stdout, stderr = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert stdout == b""
    if sent == signal.SIGINT:
        assert process.returncode == INTERRUPTED, stderr
        assert stderr.startswith(b"poolservice: interrupted; 0 of 2 files are done; ")
        assert stderr.count(b"\n") == 1
    else:
        assert (process.returncode, stderr) == (-sent, b"")


def test_a_full_disk_keeps_what_is_done(tmp_path: Path, server_address: str) -> None:
    for number in range(20):
        np.save(tmp_path / f"{number:02}.npy", np.full((500, 2, 2), number, np.float32))
    words = f"map ??.npy --op gap2d -o f.npz --address {server_address}"
    # The limit on the size of files, in kilobytes, is below the size of all rows.
    done = shell(f"ulimit -f 8; $P {words}", tmp_path)
    assert done.returncode == FAILED
    assert done.stderr.startswith(b"poolservice: f.npz.partial/features.npy: File too large; 0 of 20 files are done; ")
    assert done.stderr.count(b"\n") == 1
    done = shell(f"$P {words}", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    with np.load(tmp_path / "f.npz") as arrays:
        np.testing.assert_array_equal(arrays["features"][:, 0], np.arange(20))


def test_grpc_writes_no_text_of_a_server_with_the_documented_setting(offline: Command) -> None:
    with hostile(CASES["GOAWAY ENHANCE_YOUR_CALM"].attack) as server:
        done = offline("health", server.address, GRPC_VERBOSITY="ERROR")
    assert "too_many_pings" in done.stderr
    assert done.stderr.removesuffix("\n").isprintable()
