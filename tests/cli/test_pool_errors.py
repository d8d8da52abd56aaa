"""Errors of the command line: one sentence on stderr, an exit status for scripts, never a traceback."""

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

from poolservice_client._cli.operator_names import FAMILIES

Command = Callable[..., CompletedProcess[str]]

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def _assert_error(done: "CompletedProcess[str]", status: int, *words: str) -> None:
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
            ["no operator 'maxpool2'", "did you mean max2d?"],
        ),
        (["--op", "max_pol2d"], ["no operator 'max_pol2d'", "did you mean max2d?"]),
        (["--op", "AveragePool3d"], ["no operator 'AveragePool3d'", "did you mean avg3d?"]),
        (["--op", "max_pool"], ["--op max_pool lacks the number of dimensions; write max1d, max2d or max3d\n"]),
        (["--op", "gap"], ["--op gap lacks the number of dimensions; write gap1d, gap2d or gap3d\n"]),
        (["--op", "maxx"], ["no operator 'maxx'", "did you mean max1d, max2d or max3d?"]),
        (["--op", "max4d"], ["no operator 'max4d'", "did you mean max1d, max2d or max3d?"]),
        (
            ["--op", "max2d", "--op", "max3d", "--kernel-size", "2"],
            ["poolservice: --op max3d pools 3-D inputs and --op max2d pools 2-D inputs; all operators of one command"],
        ),
        (["--op", "gap2d", "--op", "gmp2d", "--op", "lp1d:norm_type=2"], ["--op lp1d:norm_type=2 pools 1-D inputs"]),
        (["--op", "zzz"], ["no operator 'zzz'; choose one of ", *FAMILIES, "such as max2d"]),
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
        (["--op", "gap3d", "-o", "o.png"], ["-o o.png: global_avg3d does not return an image", ".npy or .npz"]),
        (["--op", "gap2d", "--normalize"], ["--normalize is for feature vectors", "--features"]),
        (["--op", "gap2d", "--features", "-o", "o.png"], ["--features", ".npy or .npz"]),
    ],
)
def test_a_usage_error_is_reported_before_anything_is_read(
    entry_point: Command, arguments: list[str], words: list[str]
) -> None:
    _assert_error(entry_point("pool", "there-is-no-such-file.jpg", *arguments), USAGE, *words)


def test_an_unknown_flag_is_a_usage_error_of_click(entry_point: Command) -> None:
    done = entry_point("pool", "x.jpg", "--op", "max2d", "--kernel", "2")
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
def test_an_invalid_setting_is_named_by_its_option(
    entry_point: Command, tmp_path: Path, command: list[str], options: list[str], words: list[str]
) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 2, 2)))
    _assert_error(entry_point(*command, "--op", "gap2d", *options), USAGE, *words)


@pytest.mark.parametrize("command", ["info", "health"])
def test_info_and_health_name_an_invalid_option(entry_point: Command, command: str) -> None:
    _assert_error(entry_point(command, "--timeout", "0"), USAGE, "--timeout: must be", "inf waits")
    _assert_error(entry_point(command, "--address", "localhost"), USAGE, 'address: must be "host:port"')


def test_an_invalid_setting_from_the_environment_is_named_by_its_variable(offline: Command) -> None:
    done = offline("info", "--address", "example.org:50051", POOLSERVICE_TOKEN="secret")
    _assert_error(
        done,
        USAGE,
        "POOLSERVICE_TOKEN: is sent over TLS (POOLSERVICE_CA), to this machine or",
        "on the network could read it\n",
    )
    done = offline("info", POOLSERVICE_CLIENT_KEY="key.pem")
    _assert_error(done, USAGE, "POOLSERVICE_CLIENT_CERTIFICATE", "takes a certificate and its key together")


@pytest.mark.parametrize(("command", "options"), [("pool", []), ("map", ["-o", "f.npz"])])
def test_a_folder_or_a_url_is_a_usage_error(
    entry_point: Command, tmp_path: Path, command: str, options: list[str]
) -> None:
    (tmp_path / "photos").mkdir()
    _assert_error(entry_point(command, "photos", "--op", "gap2d", *options), USAGE, "photos is a folder; ")
    url = "https://example.org/a.jpg"
    _assert_error(
        entry_point(command, url, "--op", "gap2d", *options), USAGE, f"{url} is a URL, which is not fetched; "
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.jpg", None, ["missing.jpg: No such file or directory"]),
        ("torn.npy", b"\x93NUMPY\x01\x00", ["torn.npy: this .npy file cannot be read"]),
        ("several.npz", b"PK\x03\x04", ["several.npz: this is an archive", "one array as .npy"]),
    ],
)
def test_a_file_that_cannot_be_read(
    entry_point: Command, tmp_path: Path, name: str, content: bytes | None, words: list[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    _assert_error(entry_point("pool", name, "--op", "gap2d"), FAILED, *words)


def test_a_saved_array_of_objects_is_never_unpickled(entry_point: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    _assert_error(
        entry_point("pool", "x.npy", "--op", "gap2d"),
        FAILED,
        "x.npy: this .npy file holds Python objects",
        "never unpickled",
    )


def test_a_request_that_the_service_refuses_is_named_by_its_file(
    command: Command, tmp_path: Path, photograph: Path
) -> None:
    (tmp_path / "notes.txt").write_text("plain text")
    refused = "poolservice: notes.txt: these 10 bytes are not a JPEG"
    _assert_error(command("pool", "notes.txt", "--op", "gap2d"), FAILED, refused)
    _assert_error(command("bench", "--input", "notes.txt", "--op", "gap2d"), FAILED, refused)
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4), dtype=bool))
    refused = "poolservice: x.npy: bool cannot be pooled"
    _assert_error(command("pool", "x.npy", "--op", "max2d:kernel_size=2"), FAILED, refused, "uint8")
    _assert_error(command("pool", "x.npy", "--op", "gap2d", "--color-mode", "GRAY"), FAILED, refused)


def test_an_operator_that_does_not_fit_the_input_is_named_by_its_option(
    command: Command, tmp_path: Path, photograph: Path
) -> None:
    fits = "no window fits: a kernel_size of 601 is larger than the input, 600"
    own = "max2d:kernel_size=601x2"
    _assert_error(command("pool", photograph, "--op", own), FAILED, f"poolservice: --op {own}: kernel_size: {fits}")
    done = command("pool", photograph, "--op", "gap2d", "--op", "max2d", "--kernel-size", "601x2")
    _assert_error(done, FAILED, f"poolservice: --kernel-size of max2d: {fits}")
    done = command("bench", "--shape", "3x600x600", "--op", "max2d", "--kernel-size", "601")
    _assert_error(done, FAILED, f"poolservice: --kernel-size of max2d: {fits}")
    done = command("bench", "--shape", "3x600", "--op", "max2d", "--kernel-size", "2")
    _assert_error(done, FAILED, "poolservice: --shape 3x600: MaxPool2d takes 3 dimensions")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4), dtype=np.float32))
    done = command("pool", "x.npy", "--op", "gap2d", "-o", "o.png")
    _assert_error(done, FAILED, "poolservice: -o o.png: an image takes an unbatched 2-D result of 1, 3 or 4 channels")
    done = command("pool", "x.npy", "--op", "gap2d", "--color-mode", "gray")
    _assert_error(done, FAILED, "poolservice: --color-mode: is for images")


def test_a_message_that_is_too_large_names_the_option(command: Command, photograph: Path) -> None:
    done = command("pool", photograph, "--op", "gap2d", "--max-message-bytes", "1000")
    _assert_error(done, FAILED, "over this client's limit of 1000; raise it with --max-message-bytes, and the server's")
    done = command("map", photograph, "--op", "gap2d", "--max-message-bytes", "1000", "-o", "f.npz")
    assert done.returncode == FAILED
    assert f"{photograph}: the request has " in done.stderr
    assert "raise it with --max-message-bytes, and" in done.stderr


def test_a_file_that_cannot_be_written(command: Command, tmp_path: Path, photograph: Path) -> None:
    (tmp_path / "out.npy").mkdir()
    done = command("pool", photograph, "--op", "gap2d", "-o", "out.npy")
    _assert_error(done, FAILED, "out.npy: Is a directory")


def test_a_process_exits_as_the_entry_point_does(offline: Command) -> None:
    _assert_error(offline("pool", "x.jpg", "--op", "max2d"), USAGE, "max2d needs kernel_size")
    _assert_error(offline("pool", "x.jpg", "--op", "gap2d"), FAILED, "x.jpg: No such file or directory")


def test_no_server_responds(offline: Command, photograph: Path, unused_address: str) -> None:
    done = offline("pool", photograph, "--op", "gap2d", "--address", unused_address)
    _assert_error(done, FAILED, f"no server answers at {unused_address}")


def test_an_address_without_a_port(offline: Command, photograph: Path) -> None:
    _assert_error(offline("pool", photograph, "--op", "gap2d", "-a", "localhost"), USAGE, "address", "host:port")


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_an_interrupt_ends_the_command_without_output(photograph: Path) -> None:
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
        # After it has connected, the command waits for a response that never comes.
        connection, _ = listener.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    assert (stdout, stderr) == ("", "")


def test_a_request_that_the_server_refuses_has_its_request_id(command: Command, images: list[str]) -> None:
    done = command("pool", images[0], "--op", "max2d", "--kernel-size", "900")
    _assert_error(done, FAILED, "--kernel-size", "(request id ")
