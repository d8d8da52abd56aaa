"""The limits on a process: open files, processes, temporary files and core files."""

import os
import resource
import tempfile
from collections.abc import Iterator

from poolservice_server.doctor.finding import Finding, ok, problem, warning
from poolservice_server.doctor.machine import Machine
from poolservice_server.file_limit import allows, needed_files, possible_files
from poolservice_server.settings import Settings

# Threads of a worker besides those that settings count: gRPC, metrics, signals, engines.
_OWN_THREADS = 40


def check_files(settings: Settings, _machine: Machine) -> Iterator[Finding]:
    """Compare the limit on open files, to which the server raises its own, with the connections of a worker."""
    limit, needed = possible_files(), needed_files(settings.max_connections)
    if allows(limit, needed):
        possible = "any number of" if limit == resource.RLIM_INFINITY else limit
        yield ok("files", f"a process can have {possible} open files, and {needed} are needed")
    else:
        yield problem(
            "files",
            f"a process can have {limit} open files, and --max-connections {settings.max_connections} needs {needed}: "
            f"connections beyond that fail; raise the hard limit (LimitNOFILE={needed} in systemd, --ulimit "
            f"nofile={needed} in docker, ulimit -Hn {needed} as root), or lower --max-connections",
        )


def check_processes(settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Compare the limits on processes and threads with the settings."""
    share = max(1, machine.cores() // settings.workers)
    worker = (settings.threads or share) + (settings.decode_threads or share) + _OWN_THREADS
    needed = settings.workers * worker
    left = _left_in_cgroup(machine)
    user, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if left is not None and left < needed:
        yield problem(
            "processes",
            f"the container may start {left} more processes and threads, and this configuration needs {needed}; raise "
            "its limit (--pids-limit in docker, pids.max of the control group), or lower --workers",
        )
    elif user != resource.RLIM_INFINITY and user < needed and os.geteuid() != 0:
        yield problem(
            "processes",
            f"a user may have {user} processes and threads, and this configuration needs {needed}; raise the limit "
            f"(ulimit -u {needed}), or lower --workers",
        )
    else:
        yield ok("processes", f"the limits allow the {needed} processes and threads that are needed")


def check_decoders(settings: Settings, _machine: Machine) -> Iterator[Finding]:
    """Check that the kernel has the shared memory in which decoding processes get their files."""
    if settings.decode_isolation != "process":
        return
    try:
        os.close(os.memfd_create("poolservice-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        yield problem(
            "decoders",
            f"--decode-isolation process needs shared memory, and memfd_create fails: {error.strerror}; allow it in "
            "the container's seccomp profile, or use --decode-isolation thread",
        )
    else:
        yield ok("decoders", "decoding processes can share memory with the server")


def check_temporary_files(_settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Check that temporary files can be written. Libraries need them; the server itself does not."""
    named = machine.environment.get("TMPDIR")
    if named and not (os.path.isdir(named) and os.access(named, os.W_OK | os.X_OK)):
        yield warning(
            "temporary files",
            f"TMPDIR names {named}, which is not a folder that this user can write to; correct it, or unset it",
        )
        return
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
    except OSError as error:
        yield warning(
            "temporary files",
            f"no temporary file can be written ({error.strerror}), which torch and `backbone import` need; mount a "
            "writable /tmp (--tmpfs /tmp in docker)",
        )
    else:
        yield ok("temporary files", f"{tempfile.gettempdir()} is writable")


def check_core_files(settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Warn if a crash would write the memory of the server, with callers' data and keys, to a file."""
    limit, _ = resource.getrlimit(resource.RLIMIT_CORE)
    pattern = machine.text("proc/sys/kernel/core_pattern") or ""
    # A pattern that begins with | names a program, for which the limit does not count.
    if limit and not pattern.startswith("|") and (settings.auth_token_file or settings.tls_key):
        yield warning(
            "core files",
            f"a crash would write the server's memory, with its key and callers' data, to a file named {pattern!r}; "
            "start it with ulimit -c 0 (--ulimit core=0 in docker, LimitCORE=0 in systemd)",
        )


def _left_in_cgroup(machine: Machine) -> int | None:
    folders = (*machine.cgroup_folders(), "sys/fs/cgroup/pids")
    limits = {folder: machine.number(f"{folder}/pids.max") for folder in folders}
    used = {folder: machine.number(f"{folder}/pids.current") or 0 for folder in folders}
    return min((limit - used[folder] for folder, limit in limits.items() if limit is not None), default=None)
