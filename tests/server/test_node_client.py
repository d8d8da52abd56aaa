"""A client in Node.js, which has nothing but pool.proto and its own gRPC library, gets the results of torch."""

import fcntl
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

NODE = Path(__file__).parents[1] / "node"

pytestmark = pytest.mark.timeout(300)


def _require(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def _run(*command: str, cwd: Path = NODE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


def _output(*command: str, cwd: Path = NODE) -> str:
    completed = _run(*command, cwd=cwd)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


@pytest.fixture(scope="module")
def node() -> str:
    """The path of node, after the client's packages were installed for the current state of the lock file."""
    node, npm = _require("node"), _require("npm")
    wanted, installed = NODE / "package-lock.json", NODE / "node_modules" / ".package-lock.json"
    with wanted.open() as lock:
        # Two processes that run tests must not install at the same time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
            _output(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    return node


@pytest.fixture(scope="module")
def results(node: str, server_address: str, photograph: Path) -> dict[str, Any]:
    """All values that the client received, as it prints them with --json."""
    results: dict[str, Any] = json.loads(_output(node, "client.js", server_address, str(photograph), "--json"))
    return results


@pytest.fixture
def pixels(photograph: Path) -> torch.Tensor:
    """The photograph as torchvision's ToTensor makes it: float32, (C, H, W), in [0, 1]."""
    with Image.open(photograph) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).to(torch.float32) / 255


def _array(tensor: dict[str, Any]) -> np.ndarray:
    return np.array(tensor["values"], tensor["dtype"]).reshape(tensor["shape"])


def test_an_image_is_pooled_as_by_torch(results: dict[str, Any], pixels: torch.Tensor) -> None:
    maxima, means = results["image"]["results"]

    np.testing.assert_array_equal(_array(maxima["tensor"]), F.max_pool2d(pixels, 3, 2, 1).numpy(), strict=True)
    np.testing.assert_allclose(
        _array(means["tensor"]), pixels.to(torch.float64).mean((1, 2), keepdim=True).numpy(), rtol=1e-6
    )


def test_a_tensor_is_pooled_as_by_torch(results: dict[str, Any]) -> None:
    x = torch.arange(48, dtype=torch.float32).reshape(2, 4, 6) * 1.5
    values, indices = F.max_pool2d_with_indices(x, (2, 3))
    (result,) = results["tensor"]["results"]

    np.testing.assert_array_equal(_array(result["tensor"]), values.numpy(), strict=True)
    np.testing.assert_array_equal(_array(result["indices"]), indices.numpy(), strict=True)


def test_an_invalid_request_gives_a_status_that_explains_it(results: dict[str, Any]) -> None:
    assert results["error"]["code"] == "INVALID_ARGUMENT"
    assert "padding" in results["error"]["message"]


def test_shapes_and_values_are_printed_from_any_folder(
    node: str, server_address: str, photograph: Path, pixels: torch.Tensor, tmp_path: Path
) -> None:
    output = _output(node, str(NODE / "client.js"), server_address, str(photograph), cwd=tmp_path)

    first = " ".join(f"{value:.6g}" for value in F.max_pool2d(pixels, 3, 2, 1).flatten()[:6].tolist())
    assert f"max_pool         float32 (3, 300, 256): {first} ...\n" in output
    assert "max_pool         float32 (2, 2, 2): 12 16.5 30 34.5 48 52.5 ...\n" in output
    assert "indices          int64 (2, 2, 2): 8 11 20 23 8 11 ...\n" in output
    assert "\n  INVALID_ARGUMENT: " in output


def test_a_response_of_more_than_4_mb_is_received(node: str, server_address: str, tmp_path: Path) -> None:
    Image.new("RGB", (1300, 1300)).save(tmp_path / "large.png")

    output = _output(node, "client.js", server_address, str(tmp_path / "large.png"))

    # 3 * 650 * 650 float32 values take 5 MB.
    assert "float32 (3, 650, 650)" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected ADDRESS and IMAGE, got 0 arguments\n\nusage: node client.js ADDRESS IMAGE"),
        (["localhost:1", "a", "b"], "expected ADDRESS and IMAGE, got 3 arguments\n\nusage: "),
        (["localhost:1", "a", "--jsn"], "Unknown option '--jsn'"),
        (["localhost:1", "missing.jpg"], "cannot read the image missing.jpg: ENOENT"),
        (
            ["localhost:1", "client.js", "--protos", "missing"],
            "there is no missing/poolservice/v1/pool.proto; name the",
        ),
    ],
)
def test_wrong_arguments_are_reported_without_a_stack_trace(arguments: list[str], message: str) -> None:
    completed = _run(_require("node"), "client.js", *arguments)

    assert completed.returncode == 2
    assert completed.stderr.startswith(f"client.js: {message}")
    assert "\n    at " not in completed.stderr
    assert completed.stdout == ""


def test_an_unreachable_server_is_reported_without_a_stack_trace(node: str) -> None:
    # Nothing listens on port 0.
    completed = _run(node, "client.js", "127.0.0.1:0", "client.js")

    assert completed.returncode == 1
    assert completed.stderr.startswith("client.js: 14 UNAVAILABLE: ")
    assert "\n    at " not in completed.stderr
