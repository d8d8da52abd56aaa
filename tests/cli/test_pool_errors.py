"""Mistakes on the command line: one sentence on stderr, a status for scripts, never a traceback."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

Command = Callable[..., CompletedProcess[str]]

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def _one_sentence(done: "CompletedProcess[str]", status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("poolservice: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--op", "max2"], ["no operator 'max2'", "did you mean", "max2d"]),
        (
            ["--op", "maxpool2", "--kernel-size", "2"],
            ["no operator 'maxpool2'", "did you mean MaxPool1d or MaxPool2d or MaxPool3d?"],
        ),
        (["--op", "zzz"], ["no operator 'zzz'", "choose one of max1d", "global_min3d"]),
        (["--op", "max2d"], ["max2d needs kernel_size", "--kernel-size 2", "max2d:kernel_size=2"]),
        (["--op", "adaptive_avg1d"], ["adaptive_avg1d needs output_size"]),
        (["--op", "gap2d:stride=2"], ["stride is not a parameter of global_avg2d, which takes none"]),
        (
            ["--op", "max2d:kernelsize=2"],
            ["kernelsize is not a parameter of max2d", "kernel_size, stride", "did you mean kernel_size?"],
        ),
        (
            ["--op", "max2d:kernel_size=2,padding=2"],
            ["--op max2d:kernel_size=2,padding=2: padding: must be at most half"],
        ),
        (["--op", "max2d:padding=2", "--kernel-size", "0"], ["--kernel-size of max2d: must be from 1 to "]),
        (["--op", "gap2d", "--op", "mixed2d:kernel_size=2", "--alpha", "2"], ["--alpha of mixed2d: must be from 0"]),
        (["--op", "max2d:kernel_size=3,2"], ["'2' is not NAME=VALUE, such as kernel_size=3", "3x2"]),
        (["--op", "max2d:kernel_size=two"], ["kernel_size takes a size", "'two'"]),
        (["--op", "max2d:kernel_size=2,ceil_mode=1"], ["ceil_mode takes true or false", "'1'"]),
        (["--op", "max2d", "--kernel-size", "3,2"], ["--kernel-size takes a size", "3x2", "'3,2'"]),
        (["--op", "gap2d", "--op", "gmp2d", "--kernel-size", "2"], ["--kernel-size", "global_avg2d or global_max2d"]),
        (["--op", "gap2d", "--alpha", "0.5"], ["--alpha is not a parameter of global_avg2d"]),
        (["--op", "gap2d", "-o", "out.jpg"], ["-o out.jpg", ".png, .npy or .npz"]),
        (["--op", "gap2d", "-o", "-"], ["-o -", ".png, .npy or .npz"]),
        (["--op", "gap2d", "-o", "no/such/out.npy"], ["-o no/such/out.npy: there is no folder no/such"]),
        (["--op", "gap2d", "--figure", "f.txt"], ["--figure f.txt: the file's name must end in .png, .pdf or .svg"]),
        (["--op", "gap2d", "--figure", "figure"], ["--figure figure: the file's name must end in .png, .pdf or .svg"]),
        (["--op", "gap2d", "--figure", "no/such/f.png"], ["--figure no/such/f.png: there is no folder no/such"]),
        (["--op", "gap2d", "--op", "gmp2d", "-o", "out.npy"], ["2 results do not fit one array", ".npz"]),
        (["--op", "max2d:kernel_size=2,return_indices=true", "-o", "o.png"], ["values and indices", ".npz"]),
        (["--op", "gap2d", "--normalize"], ["--normalize is for feature vectors", "--features"]),
        (["--op", "gap2d", "--features", "-o", "o.png"], ["--features", ".npy or .npz"]),
    ],
)
def test_a_command_written_wrongly_is_told_before_anything_is_read(
    entry: Command, arguments: list[str], words: list[str]
) -> None:
    _one_sentence(entry("pool", "there-is-no-such-file.jpg", *arguments), USAGE, *words)


def test_an_unknown_flag_is_clicks_own_usage_error(entry: Command) -> None:
    done = entry("pool", "x.jpg", "--op", "max2d", "--kernel", "2")
    assert done.returncode == USAGE
    assert "--kernel" in done.stderr


@pytest.mark.parametrize("command", [["pool", "x.npy"], ["map", "x.npy", "-o", "f.npz"], ["bench", "-i", "x.npy"]])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--timeout", "0"], ["--timeout: must be a number of seconds above 0 (inf waits for ever); got 0.0"]),
        (["--timeout", "nan"], ["--timeout: must be a number of seconds above 0"]),
        (["--max-message-bytes", "0"], ["--max-message-bytes: must be a number of bytes from 1 to "]),
    ],
)
def test_a_setting_is_refused_by_its_option(
    entry: Command, tmp_path: Path, command: list[str], options: list[str], words: list[str]
) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 2, 2)))
    _one_sentence(entry(*command, "--op", "gap2d", *options), USAGE, *words)


@pytest.mark.parametrize("command", ["info", "health"])
def test_so_it_is_where_nothing_is_pooled(entry: Command, command: str) -> None:
    _one_sentence(entry(command, "--timeout", "0"), USAGE, "--timeout: must be", "inf waits")
    _one_sentence(entry(command, "--address", "localhost"), USAGE, 'address: must be "host:port"')


def test_what_the_environment_sets_is_refused_by_its_variable(offline: Command) -> None:
    done = offline("info", "--address", "example.org:50051", POOLSERVICE_TOKEN="secret")
    _one_sentence(
        done, USAGE, "POOLSERVICE_TOKEN: is sent over TLS (POOLSERVICE_CA), to this machine or", "on the way\n"
    )
    done = offline("info", POOLSERVICE_CLIENT_KEY="key.pem")
    _one_sentence(done, USAGE, "POOLSERVICE_CLIENT_CERTIFICATE", "takes a certificate and its key together")


@pytest.mark.parametrize(("command", "options"), [("pool", []), ("map", ["-o", "f.npz"])])
def test_a_folder_or_a_url_is_no_file(entry: Command, tmp_path: Path, command: str, options: list[str]) -> None:
    (tmp_path / "photos").mkdir()
    _one_sentence(entry(command, "photos", "--op", "gap2d", *options), USAGE, "photos is a folder; ")
    url = "https://example.org/a.jpg"
    _one_sentence(entry(command, url, "--op", "gap2d", *options), USAGE, f"{url} is a URL, which is not fetched; ")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.jpg", None, ["missing.jpg: No such file or directory"]),
        ("torn.npy", b"\x93NUMPY\x01\x00", ["torn.npy: this .npy file cannot be read"]),
        ("several.npz", b"PK\x03\x04", ["several.npz: this is an archive", "one array as .npy"]),
    ],
)
def test_a_file_that_cannot_be_read(
    entry: Command, tmp_path: Path, name: str, content: bytes | None, words: list[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    _one_sentence(entry("pool", name, "--op", "gap2d"), FAILED, *words)


def test_a_saved_array_of_objects_is_never_unpickled(entry: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    _one_sentence(
        entry("pool", "x.npy", "--op", "gap2d"), FAILED, "x.npy: this .npy file holds Python objects", "never unpickled"
    )


def test_what_the_service_refuses_is_said_in_its_words(command: Command, tmp_path: Path, photograph: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    refused = "poolservice: notes.txt: these 10 bytes are not a JPEG"
    _one_sentence(command("pool", "notes.txt", "--op", "gap2d"), FAILED, refused)
    _one_sentence(command("bench", "--input", "notes.txt", "--op", "gap2d"), FAILED, refused)
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4), dtype=bool))
    said = "poolservice: x.npy: bool cannot be pooled"
    _one_sentence(command("pool", "x.npy", "--op", "max2d:kernel_size=2"), FAILED, said, "uint8")
    _one_sentence(command("pool", "x.npy", "--op", "gap2d", "--color-mode", "GRAY"), FAILED, said)


def test_what_an_operator_cannot_do_is_said_of_what_was_written(
    command: Command, tmp_path: Path, photograph: Path
) -> None:
    fits = "no window fits: a kernel_size of 601 is larger than the input, 600"
    own = "max2d:kernel_size=601x2"
    _one_sentence(command("pool", photograph, "--op", own), FAILED, f"poolservice: --op {own}: kernel_size: {fits}")
    done = command("pool", photograph, "--op", "gap2d", "--op", "max2d", "--kernel-size", "601x2")
    _one_sentence(done, FAILED, f"poolservice: --kernel-size of max2d: {fits}")
    done = command("bench", "--shape", "3x600x600", "--op", "max2d", "--kernel-size", "601")
    _one_sentence(done, FAILED, f"poolservice: --kernel-size of max2d: {fits}")
    done = command("bench", "--shape", "3x600", "--op", "max2d", "--kernel-size", "2")
    _one_sentence(done, FAILED, "poolservice: --shape 3x600: MaxPool2d takes 3 dimensions")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4), dtype=np.float32))
    done = command("pool", "x.npy", "--op", "gap2d", "-o", "o.png")
    _one_sentence(done, FAILED, "poolservice: -o o.png: an image takes an unbatched 2-D result of 1, 3 or 4 channels")
    done = command("pool", "x.npy", "--op", "gap2d", "--color-mode", "gray")
    _one_sentence(done, FAILED, "poolservice: --color-mode: is for images")


def test_a_message_that_is_too_large_names_the_option(command: Command, photograph: Path) -> None:
    done = command("pool", photograph, "--op", "gap2d", "--max-message-bytes", "1000")
    _one_sentence(done, FAILED, "over this client's limit of 1000; raise it with --max-message-bytes, and the server's")
    done = command("map", photograph, "--op", "gap2d", "--max-message-bytes", "1000", "-o", "f.npz")
    assert done.returncode == FAILED
    assert f"{photograph}: the request has " in done.stderr
    assert "raise it with --max-message-bytes, and" in done.stderr


def test_a_file_that_cannot_be_written(command: Command, tmp_path: Path, photograph: Path) -> None:
    (tmp_path / "out.npy").mkdir()
    done = command("pool", photograph, "--op", "gap2d", "-o", "out.npy")
    _one_sentence(done, FAILED, "out.npy: Is a directory")


def test_a_mistake_ends_a_process_as_it_ends_its_entry_point(offline: Command) -> None:
    _one_sentence(offline("pool", "x.jpg", "--op", "max2d"), USAGE, "max2d needs kernel_size")
    _one_sentence(offline("pool", "x.jpg", "--op", "gap2d"), FAILED, "x.jpg: No such file or directory")


def test_nobody_answers(offline: Command, photograph: Path, nobody: str) -> None:
    done = offline("pool", photograph, "--op", "gap2d", "--address", nobody)
    _one_sentence(done, FAILED, f"no server answers at {nobody}")


def test_an_address_without_a_port(offline: Command, photograph: Path) -> None:
    _one_sentence(offline("pool", photograph, "--op", "gap2d", "-a", "localhost"), USAGE, "address", "host:port")


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_an_interrupt_ends_it_quietly(photograph: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        arguments = ["pool", str(photograph), "--op", "gap2d", "--address", address, "--timeout", "inf"]
        process = subprocess.Popen(
            [sys.executable, "-m", "poolservice_client", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Once it has connected it waits for an answer that never comes.
        connection, _ = listener.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            printed, said = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    assert (printed, said) == ("", "")
