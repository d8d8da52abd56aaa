"""A client that no Python wrote: Node.js, with nothing but pool.proto and its own gRPC library."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

ROOT = Path(__file__).parents[2]
NODE = ROOT / "tests" / "node"


def _command(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def answers(server_address: str, photograph: Path) -> dict[str, Any]:
    """What the Node client printed. Its packages are installed once for each state of its lock file."""
    node, npm = _command("node"), _command("npm")
    installed = NODE / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (NODE / "package-lock.json").stat().st_mtime:
        _run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    answers: dict[str, Any] = json.loads(_run(node, "client.js", server_address, str(ROOT / "protos"), str(photograph)))
    return answers


def _array(tensor: dict[str, Any]) -> np.ndarray:
    dtype = {"DATA_TYPE_FLOAT32": "<f4", "DATA_TYPE_INT64": "<i8"}[tensor["dtype"]]
    return np.frombuffer(base64.b64decode(tensor["data"]), dtype).reshape(tensor["shape"])


@pytest.mark.timeout(300)
def test_a_picture_is_pooled_as_torch_pools_it(answers: dict[str, Any], photograph: Path) -> None:
    with Image.open(photograph) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).to(torch.float32) / 255
    maxima, means = answers["image"]["results"]

    np.testing.assert_array_equal(_array(maxima["tensor"]), F.max_pool2d(pixels, 3, 2, 1).numpy())
    np.testing.assert_allclose(
        _array(means["tensor"]), pixels.to(torch.float64).mean((1, 2), keepdim=True).numpy(), rtol=1e-6
    )


@pytest.mark.timeout(300)
def test_a_tensor_is_pooled_as_torch_pools_it(answers: dict[str, Any]) -> None:
    x = torch.arange(48, dtype=torch.float32).reshape(2, 4, 6) * 1.5
    values, indices = F.max_pool2d_with_indices(x, (2, 3))
    (result,) = answers["tensor"]["results"]

    np.testing.assert_array_equal(_array(result["tensor"]), values.numpy())
    np.testing.assert_array_equal(_array(result["indices"]), indices.numpy())


@pytest.mark.timeout(300)
def test_a_refusal_arrives_as_a_status_in_words(answers: dict[str, Any]) -> None:
    assert answers["refusal"]["code"] == "INVALID_ARGUMENT"
    assert "padding" in answers["refusal"]["message"]
