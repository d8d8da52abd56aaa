"""The machine that the checks look at: its files, its environment and its clock."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from poolservice_server.cpu_count import cpu_quota, usable_cpus

# Control groups of version 1 say "no limit" with the largest multiple of a page below 2**63.
_NO_LIMIT = 2**60


@dataclass(frozen=True)
class Machine:
    """What the checks read, except what they ask the kernel.

    Attributes:
        root: the folder that has /proc and /sys.
        environment: the environment variables.
        now: returns the seconds since 1970.
    """

    root: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    now: Callable[[], float] = time.time

    def text(self, path: str) -> str | None:
        """Return the content of a file such as proc/meminfo; None if it is missing or cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """Return the number in a file; None if it has none, or if there is no limit."""
        text = self.text(path)
        return int(text) if text is not None and text.isdecimal() and int(text) < _NO_LIMIT else None

    def cores(self) -> int:
        """Return the number of cores that the server takes into account."""
        return usable_cpus(*self._cgroup_files())

    def cpu_quota(self) -> float | None:
        """Return the lowest CPU quota, in cores, of this process's control groups; None without one."""
        return cpu_quota(*self._cgroup_files())

    def cgroup_folders(self) -> list[str]:
        """Return the folders of this process's control groups of version 2: its own, and those around it.

        A container sees its own as the outermost one. A service of systemd is in a group within the machine's.
        """
        folders = ["sys/fs/cgroup"]
        for line in (self.text("proc/self/cgroup") or "").splitlines():
            if line.startswith("0::/"):
                for part in line.removeprefix("0::/").split("/"):
                    if part:
                        folders.append(f"{folders[-1]}/{part}")
        return folders[::-1]

    def table(self, path: str) -> dict[str, int]:
        """Return the numbers of a file with lines such as "MemTotal:  1234 kB", by name; {} if it cannot be read."""
        numbers = {}
        for line in (self.text(path) or "").splitlines():
            words = line.replace(":", " ").split()
            if len(words) >= 2 and words[1].isdecimal():
                numbers[words[0]] = int(words[1])
        return numbers

    def _cgroup_files(self) -> tuple[Path, Path]:
        return self.root / "sys/fs/cgroup", self.root / "proc/self/cgroup"

    def memory(self) -> dict[str, int]:
        """Return the values of /proc/meminfo in bytes, by name."""
        return {name: value * 1024 for name, value in self.table("proc/meminfo").items()}


def size_text(count: float) -> str:
    """Return a number of bytes as a short text: 512 MiB, 1.5 GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
