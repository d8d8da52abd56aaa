"""`make bench-backbone` measures every contestant and checks its values, and says what it cannot measure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import backbone_gpu
from backbone_network import folder_of
from poolservice_server.backend.cpu import CpuDevice

COMMAND = Path(__file__).parents[1] / "bench" / "backbone.py"


def run_command(*flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, COMMAND, *flags], capture_output=True, check=False, text=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_quick_run_measures_every_contestant(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = run_command("--quick", "--network", "mobilenetv2", "--concurrency", "8", "--json", str(results))
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(results.read_text())
    cells = {cell["contestant"]: cell["rounds"] for cell in measured["cells"]}
    assert cells.keys() >= {"limit", "poolservice", "in threads", "plain"}
    assert all(len(rounds) == 2 and all(one["rate"] > 0 for one in rounds) for rounds in cells.values())
    compared = {(target["contestant"], target["baseline"]) for target in measured["targets"]}
    assert compared >= {("poolservice", "limit"), ("in threads", "plain")}


def test_an_unknown_network_is_refused_with_the_names_of_the_others() -> None:
    done = run_command("--network", "vgg")
    assert done.returncode == 2
    assert "no such network: vgg" in done.stderr
    assert "mobilenetv2, resnet50" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")
def test_without_a_gpu_the_part_for_gpus_is_refused_with_the_reason() -> None:
    done = run_command("--gpu")
    assert done.returncode == 1
    assert done.stdout.startswith("nothing ran on a GPU: torch")


def test_the_part_for_gpus_compares_equal_values() -> None:
    """The CPU stands in for the GPU."""
    rates = backbone_gpu.compare(CpuDevice(), folder_of("mobilenetv2"), batch=2, seconds=0.0, rounds=2)
    assert len(rates.torch) == len(rates.poolservice) == 2
    assert rates.ratio > 0
