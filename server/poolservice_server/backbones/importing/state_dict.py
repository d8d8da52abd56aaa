"""Converts a state dict, a pickle, to safetensors in a child process.

A pickle is a program. `torch.load(weights_only=True)` runs only the part of that language that makes tensors, but its
implementation has had faults. The child process bounds what such a fault could do: see `state_dict_child`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.foreign_text import quote

_CHILD = Path(__file__).with_name("state_dict_child.py")
# The file's bytes, the tensors that are read from it, contiguous copies of them, and what safetensors writes.
_COPIES = 5
_MIN_MEMORY_BYTES = 64 << 20
# Importing torch takes seconds; a slow disk reads 20 MB per second.
_MIN_SECONDS = 60.0
_BYTES_PER_SECOND = 20e6


class Conversion(NamedTuple):
    """How a conversion ran.

    Attributes:
        without_network: whether the child process had no network, which the kernel must permit.
    """

    without_network: bool


def convert_state_dict(source: Path, target: Path) -> Conversion:
    """Write the tensors of a state dict to a safetensors file.

    The child process has no environment variables, no network if the kernel permits user namespaces, address space and
    time for several copies of the file, and, unless the user is root, no right to start processes. It runs as the same
    user and can read and write that user's files.

    Args:
        source: a file that torch.save wrote: a state dict, or a checkpoint with a state dict.
        target: the safetensors file.

    Raises:
        ImportFailed: the file is no state dict, or the child process exceeds its memory or time.
    """
    try:
        size = source.stat().st_size
    except OSError as error:
        raise ImportFailed(f"{source}: {error.strerror}") from None
    seconds = _MIN_SECONDS + size / _BYTES_PER_SECOND
    arguments = [str(source.absolute()), str(target.absolute()), str(_MIN_MEMORY_BYTES + _COPIES * size)]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, and a program of this package
            [sys.executable, "-I", str(_CHILD), *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": "1"},
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ImportFailed(f"{source}: was not converted within {seconds:.0f} s") from None
    try:
        report = json.loads(done.stdout)
    except ValueError:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise ImportFailed(
            f"{source}: the process that converts it ended with status {done.returncode}"
            f"{f': {quote(reason[-1])}' if reason else ''}"
        ) from None
    if "error" in report:
        raise ImportFailed(f"{source}: {quote(report['error'], 400)}")
    return Conversion(without_network=not report["network"])
