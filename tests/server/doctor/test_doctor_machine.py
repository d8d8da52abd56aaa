"""The doctor's checks of limits that a test cannot set: those of containers, the kernel, the clock and GPUs."""

from pathlib import Path

import pytest
from tests.server.doctor.conftest import Plant

from poolservice_server.doctor import clock, cpu, device, limits, memory
from poolservice_server.doctor.finding import Finding
from poolservice_server.doctor.machine import Machine
from poolservice_server.settings import Settings

SETTINGS = Settings(device="auto")
MEMORY = "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"


def the_one(findings: list[Finding], state: str) -> str:
    (finding,) = findings
    assert finding.state == state
    return finding.sentence


@pytest.mark.parametrize("path", ["sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"])
def test_a_container_with_less_memory_than_the_queue_is_a_problem(machine: Plant, path: str) -> None:
    planted = machine({path: f"{256 * 2**20}\n", "proc/meminfo": MEMORY})
    sentence = the_one(list(memory.check_memory(SETTINGS, planted)), "problem")
    assert sentence.startswith("the container is limited to 256 MiB, and a full queue makes the server take about")
    assert sentence.endswith("raise it, or lower --workers or --max-queue-bytes")


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096), str(2**33)])
def test_a_container_with_enough_memory_is_well(machine: Plant, limit: str) -> None:
    planted = machine({"sys/fs/cgroup/memory.max": limit, "proc/meminfo": MEMORY})
    the_one(list(memory.check_memory(SETTINGS, planted)), "ok")


def test_a_machine_with_less_memory_than_the_workers_need_is_a_problem(machine: Plant) -> None:
    planted = machine({"proc/meminfo": MEMORY})
    sentence = the_one(list(memory.check_memory(Settings(workers=64), planted)), "problem")
    assert sentence.startswith("the machine has 15.3 GiB, and a full queue")


def test_a_kernel_that_promises_little_memory_is_a_problem(machine: Plant) -> None:
    planted = machine(
        {
            "proc/meminfo": f"{MEMORY}CommitLimit: 8000000 kB\nCommitted_AS: 7500000 kB\n",
            "proc/sys/vm/overcommit_memory": "2",
        }
    )
    assert "vm.overcommit_memory is 2" in the_one(list(memory.check_memory(SETTINGS, planted)), "problem")


def test_a_machine_that_swaps_is_a_warning(machine: Plant) -> None:
    planted = machine(
        {
            "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 500000 kB\n"
            "SwapTotal: 8000000 kB\nSwapFree: 1000000 kB\n"
        }
    )
    assert "to its swap space" in the_one(list(memory.check_memory(SETTINGS, planted)), "warning")


def test_a_quota_of_half_a_core_is_a_warning(machine: Plant) -> None:
    sentence = the_one(list(cpu.check_cpu(SETTINGS, machine({"sys/fs/cgroup/cpu.max": "50000 100000"}))), "warning")
    assert sentence.startswith("the container may use 0.5 cores, and the server uses 1")


def test_a_container_that_the_kernel_stops_is_a_warning(machine: Plant) -> None:
    planted = machine(
        {"sys/fs/cgroup/cpu.max": "100000 100000", "sys/fs/cgroup/cpu.stat": "nr_periods 1000\nnr_throttled 400\n"}
    )
    assert "in 400 of 1000 periods" in the_one(list(cpu.check_cpu(SETTINGS, planted)), "warning")


def test_a_whole_quota_without_stops_is_well(machine: Plant) -> None:
    planted = machine(
        {"sys/fs/cgroup/cpu.max": "100000 100000", "sys/fs/cgroup/cpu.stat": "nr_periods 1000\nnr_throttled 4\n"}
    )
    assert the_one(list(cpu.check_cpu(SETTINGS, planted)), "ok") == "the server may use 1 core"


@pytest.mark.parametrize("folder", ["sys/fs/cgroup", "sys/fs/cgroup/pids"])
def test_a_container_with_few_processes_is_a_problem(machine: Plant, folder: str) -> None:
    planted = machine({f"{folder}/pids.max": "30", f"{folder}/pids.current": "25"})
    sentence = the_one(list(limits.check_processes(SETTINGS, planted)), "problem")
    assert sentence.startswith("the container may start 5 more processes and threads")


def test_the_limits_of_a_service_of_systemd_are_found(machine: Plant) -> None:
    unit = "sys/fs/cgroup/system.slice/pool.service"
    planted = machine(
        {
            "proc/self/cgroup": "0::/system.slice/pool.service\n",
            "proc/meminfo": MEMORY,
            f"{unit}/memory.max": "max",
            "sys/fs/cgroup/system.slice/memory.max": f"{100 * 2**20}",
            f"{unit}/pids.max": "12",
            f"{unit}/pids.current": "5",
            f"{unit}/cpu.max": "50000 100000",
            f"{unit}/cpu.stat": "nr_periods 1000\nnr_throttled 900\n",
        }
    )
    assert "limited to 100 MiB" in the_one(list(memory.check_memory(SETTINGS, planted)), "problem")
    assert "may start 7 more processes" in the_one(list(limits.check_processes(SETTINGS, planted)), "problem")
    sentences = [finding.sentence for finding in cpu.check_cpu(SETTINGS, planted)]
    assert "0.5 cores" in sentences[0]
    assert "in 900 of 1000 periods" in sentences[1]


@pytest.mark.parametrize("seconds", [0.0, 5e9])
def test_a_clock_that_is_far_off_is_a_problem(seconds: float) -> None:
    sentence = the_one(list(clock.check_clock(SETTINGS, Machine(now=lambda: seconds))), "problem")
    assert "start time synchronization" in sentence


def test_a_gpu_that_torch_cannot_use_is_a_warning(machine: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = machine({"dev/nvidia0": ""})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    sentence = the_one(list(device.check_device(SETTINGS, planted)), "warning")
    assert sentence.startswith("this machine has an NVIDIA GPU, and torch ")


def test_core_files_with_secrets_are_a_warning(machine: Plant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (2**40, 2**40))
    settings = Settings(auth_token_file=tmp_path / "tokens")
    written = list(limits.check_core_files(settings, machine({"proc/sys/kernel/core_pattern": "core"})))
    assert "ulimit -c 0" in the_one(written, "warning")
    assert not list(limits.check_core_files(settings, machine({"proc/sys/kernel/core_pattern": "|/bin/collect"})))
