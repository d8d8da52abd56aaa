"""The memory that this configuration may take, and the limits on it."""

import resource
from collections.abc import Iterator
from pathlib import Path

from poolservice_server.backbones.folder_files import backbones_in
from poolservice_server.doctor.finding import Finding, ok, problem, warning
from poolservice_server.doctor.machine import Machine, size_text
from poolservice_server.settings import Settings

# One worker that does nothing takes about 250 MiB, most of it torch, and keeps 100 MiB for messages once it has served.
_WORKER_BYTES = 350 * 2**20
# The supervisor of several workers, which never imports torch.
_SUPERVISOR_BYTES = 60 * 2**20
# One process that decodes images.
_DECODER_BYTES = 60 * 2**20
# Weights are in memory as they are on disk, and their activations and the engine's copies take as much again.
_BACKBONE_FACTOR = 2

_ADVICE = "raise it, or lower --workers or --max-queue-bytes"


def needed_bytes(settings: Settings, decode_threads: int) -> int:
    """Return the memory that the server takes when its queue is full.

    Args:
        settings: the server's settings.
        decode_threads: the number of decode threads in all workers together.
    """
    worker = _WORKER_BYTES + settings.max_queue_bytes + _BACKBONE_FACTOR * _model_bytes(settings)
    decoders = decode_threads * _DECODER_BYTES if settings.decode_isolation == "process" else 0
    return settings.workers * worker + decoders + (_SUPERVISOR_BYTES if settings.is_supervised else 0)


def check_memory(settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Compare the memory that the server may take with the limits of the container, the process and the machine."""
    needed = needed_bytes(settings, settings.decode_threads * settings.workers or machine.cores())
    what = f"a full queue makes the server take about {size_text(needed)} (--workers, --max-queue-bytes, backbones)"
    healthy = True
    for finding in (
        *_limits(what, needed, machine),
        *_overcommit(what, needed, machine),
        *_swap(machine),
    ):
        healthy = False
        yield finding
    if healthy:
        yield ok("memory", f"{what}, and no limit is lower")


def _limits(what: str, needed: int, machine: Machine) -> Iterator[Finding]:
    files = [f"{folder}/memory.max" for folder in machine.cgroup_folders()]
    found = map(machine.number, (*files, "sys/fs/cgroup/memory/memory.limit_in_bytes"))
    limit = min((one for one in found if one is not None), default=needed)
    if limit < needed:
        yield problem(
            "memory",
            f"the container is limited to {size_text(limit)}, and {what}: the kernel would kill it with all of its "
            f"calls; {_ADVICE}",
        )
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY and address_space < 4 * needed:
        yield problem(
            "memory",
            f"the address space of a process is limited to {size_text(address_space)} (ulimit -v), of which torch "
            "reserves gibibytes that it never uses; remove that limit, and limit the container's memory instead",
        )
    total = machine.memory().get("MemTotal")
    if total is not None and total < needed:
        yield problem("memory", f"the machine has {size_text(total)}, and {what}; lower --workers or --max-queue-bytes")


def _overcommit(what: str, needed: int, machine: Machine) -> Iterator[Finding]:
    memory = machine.memory()
    left = memory.get("CommitLimit", 0) - memory.get("Committed_AS", 0)
    if machine.text("proc/sys/vm/overcommit_memory") == "2" and left < 2 * needed:
        yield problem(
            "memory",
            f"the kernel promises programs only {size_text(max(left, 0))} more (vm.overcommit_memory is 2), and "
            f"{what}; set it to 0 with: sysctl vm.overcommit_memory=0",
        )


def _swap(machine: Machine) -> Iterator[Finding]:
    memory = machine.memory()
    used = memory.get("SwapTotal", 0) - memory.get("SwapFree", 0)
    if used > memory.get("MemTotal", 0) / 10 and memory.get("MemAvailable", 0) < memory.get("MemTotal", 0) / 10:
        yield warning(
            "memory",
            f"the machine has moved {size_text(used)} to its swap space and little memory is free, so calls would wait "
            "for the disk; stop other programs, or use a machine with more memory",
        )


def _model_bytes(settings: Settings) -> int:
    """Return the size of the files of backbones and pool heads."""
    return sum(path.stat().st_size for folder in _folders(settings) for path in folder.rglob("*") if path.is_file())


def _folders(settings: Settings) -> list[Path]:
    folders = [folder for folder in settings.backbone or () if folder.is_dir()]
    if settings.backbones is not None and settings.backbones.is_dir():
        folders += backbones_in(settings.backbones)
    if settings.heads is not None and settings.heads.is_dir():
        folders.append(settings.heads)
    return folders
