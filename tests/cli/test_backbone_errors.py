"""The errors of the commands with a backbone."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Command = Callable[..., CompletedProcess[str]]

NAME = "mobilenetv2"
FAILED, USAGE = 1, 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["pool", "x.jpg"], USAGE, "give an operator, such as --op gap2d; only with --backbone may there be none"),
        (["map", "x.jpg", "-o", "f.npz"], USAGE, "give an operator, such as --op gap2d"),
        (["pool", "x.jpg", "--op", "gap2d", "--tap", "t"], USAGE, "--tap names an output of a backbone; give --backb"),
        (["bench", "--tap", "t"], USAGE, "--tap names an output of a backbone; give --backbone too"),
        (["pool", "x.jpg", "--backbone", "b", "--color-mode", "GRAY"], USAGE, "leave --color-mode out"),
        (["map", "x.jpg", "--backbone", "b", "--color-mode", "RGB", "-o", "f.npz"], USAGE, "leave --color-mode out"),
        (["pool", "x.jpg", "--backbone", "b", "--stride", "2"], USAGE, "--stride is a parameter of an operator; give"),
        (["pool", "x.jpg", "--backbone", "b", "-o", "f.png"], USAGE, "-o f.png: a backbone returns no image; write an"),
        (["explain", "x.jpg", "--backbone", "b", "-o", "f.gif"], USAGE, "-o f.gif: the file's name must end in .png,"),
        (["explain", "x.jpg", "--backbone", "b", "-o", "no/f.png"], USAGE, "-o no/f.png: there is no folder no"),
        (["embed", "x.jpg", "--backbone", "b", "-o", "f.txt"], USAGE, "-o f.txt: the file's name must end in .npz,"),
        (["embed", "x.jpg", "--backbone", "b", "-o", "f.npz", "--restart", "--update"], USAGE, "give one of them"),
        (["embed", "missing/*.jpg", "--backbone", "b", "-o", "f.npz"], USAGE, "no file matches missing/*.jpg"),
    ],
)
def test_a_wrong_command_line_is_reported_before_anything_is_sent(
    entry_point: Command, arguments: list[str], status: int, message: str
) -> None:
    done = entry_point(*arguments, "--address", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["embed", "x/0.png", "--backbone", "resnet", "-o", "f.npz"],
            "--backbone: there is no backbone 'resnet'; this",
        ),
        (
            ["embed", "x/0.png", "--backbone", NAME, "--tap", "t", "-o", "f.npz"],
            f"--tap t: {NAME} has no output of this",
        ),
        (["bench", "--backbone", "resnet"], "--backbone: there is no backbone 'resnet'; this server has mobilenetv2"),
        (["pool", "x/0.png", "--backbone", "resnet"], "--backbone: "),
        (["pool", "x/0.png", "--backbone", NAME, "--tap", "t"], "--tap: "),
        (["pool", "x/0.png", "--backbone", NAME, "--op", "gap1d"], "--op gap1d: must pool 2 dimensions"),
        (["pool", "x/0.png", "--backbone", NAME, "--tap", "embedding", "--op", "gap2d"], "--op"),
        (["explain", "x/0.png", "--backbone", "resnet"], "--backbone: "),
        (
            ["explain", "x/0.png", "--backbone", NAME, "--class", "tabbi"],
            "--class: the backbone has no class 'tabbi'; d",
        ),
        (["explain", "x/0.png", "--backbone", NAME, "--class", "7"], "--class: "),
        (["explain", "x/0.png", "--backbone", NAME, "--class", "9" * 5000], "--class: "),
        (["explain", "x/0.png", "--backbone", NAME, "--top", "0"], "--top: must be 1 or more if no classes are given"),
    ],
)
def test_an_error_about_a_backbone_names_the_option(
    entry_point: Command, backbone_address: str, images: list[str], arguments: list[str], message: str
) -> None:
    done = entry_point(*arguments, "--address", backbone_address)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr.startswith(f"poolservice: {message}")


def test_explain_says_that_matplotlib_is_missing(tmp_path: Path) -> None:
    without_matplotlib = (
        "import sys; sys.modules['matplotlib'] = None; from poolservice_client.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", without_matplotlib, "explain", "x.jpg", "--backbone", "b", "-o", "f.png"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr == "poolservice: -o needs matplotlib; install it with: pip install matplotlib\n"
