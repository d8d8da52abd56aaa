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
        (["--op", "zzz"], ["no operator 'zzz'", "choose one of max1d", "global_min3d"]),
        (["--op", "max2d"], ["max2d needs kernel_size", "--kernel-size 2", "max2d:kernel_size=2"]),
        (["--op", "adaptive_avg1d"], ["adaptive_avg1d needs output_size"]),
        (["--op", "gap2d:stride=2"], ["stride is not a parameter of global_avg2d, which takes none"]),
        (["--op", "max2d:kernelsize=2"], ["kernelsize is not a parameter of max2d", "kernel_size, stride"]),
        (["--op", "max2d:kernel_size=3,2"], ["'2' is not NAME=VALUE", "3x2"]),
        (["--op", "max2d:kernel_size=two"], ["kernel_size takes a size", "'two'"]),
        (["--op", "max2d:kernel_size=2,ceil_mode=1"], ["ceil_mode takes true or false", "'1'"]),
        (["--op", "max2d", "--kernel-size", "3,2"], ["--kernel-size takes a size", "3x2", "'3,2'"]),
        (["--op", "gap2d", "--op", "gmp2d", "--kernel-size", "2"], ["--kernel-size", "global_avg2d or global_max2d"]),
        (["--op", "gap2d", "--alpha", "0.5"], ["--alpha is not a parameter of global_avg2d"]),
        (["--op", "gap2d", "-o", "out.jpg"], ["-o out.jpg", ".png, .npy or .npz"]),
        (["--op", "gap2d", "-o", "-"], ["-o -", ".png, .npy or .npz"]),
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


def test_a_layer_refuses_what_it_cannot_do(entry: Command) -> None:
    done = entry("pool", "x.jpg", "--op", "max2d:kernel_size=2,padding=2")
    _one_sentence(done, FAILED, "max2d.padding: must be at most half the kernel")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.jpg", None, ["missing.jpg: No such file or directory"]),
        ("torn.npy", b"\x93NUMPY\x01\x00", ["torn.npy is not a readable .npy file"]),
        ("several.npz", b"PK\x03\x04", ["several.npz is an archive", ".npy"]),
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
    _one_sentence(entry("pool", "x.npy", "--op", "gap2d"), FAILED, "x.npy is not a readable .npy file")


def test_what_the_service_refuses_is_said_in_its_words(command: Command, tmp_path: Path, photograph: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    _one_sentence(command("pool", "notes.txt", "--op", "gap2d"), FAILED, "image.data")
    _one_sentence(command("pool", photograph, "--op", "max2d:kernel_size=601x2"), FAILED, "601")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4), dtype=bool))
    _one_sentence(command("pool", "x.npy", "--op", "max2d:kernel_size=2"), FAILED, "bool cannot be pooled", "uint8")
    _one_sentence(command("pool", "x.npy", "--op", "gap2d", "--color-mode", "GRAY"), FAILED, "bool")


def test_a_file_that_cannot_be_written(command: Command, photograph: Path) -> None:
    done = command("pool", photograph, "--op", "gap2d", "-o", "no/such/folder/out.npy")
    _one_sentence(done, FAILED, "no/such/folder/out.npy: No such file or directory")


def test_a_mistake_ends_a_process_as_it_ends_its_entry_point(offline: Command) -> None:
    _one_sentence(offline("pool", "x.jpg", "--op", "max2d"), USAGE, "max2d needs kernel_size")
    _one_sentence(offline("pool", "x.jpg", "--op", "gap2d"), FAILED, "x.jpg: No such file or directory")


def test_nobody_answers(offline: Command, photograph: Path, nobody: str) -> None:
    done = offline("pool", photograph, "--op", "gap2d", "--address", nobody)
    _one_sentence(done, FAILED, f"no server answers at {nobody}")


def test_an_address_without_a_port(offline: Command, photograph: Path) -> None:
    _one_sentence(offline("pool", photograph, "--op", "gap2d", "-a", "localhost"), FAILED, "address", "host:port")


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
