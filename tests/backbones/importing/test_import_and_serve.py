"""A backbone that the command imports is served, with the features of the reference pipeline."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tests.backbones.importing.graphs import BIAS, SIZE, WEIGHT, write_onnx

from poolservice_client import GlobalAvgPool2d, PoolClient
from poolservice_server.testing import Service


def _torchvision(photograph: Path) -> np.ndarray:
    """Return the input that torchvision's evaluation transform gives, for a network with inputs of 32 pixels."""
    with Image.open(photograph) as image:
        shortest = min(image.size)
        resized = image.convert("RGB").resize(
            (36 * image.width // shortest, 36 * image.height // shortest), Image.Resampling.BILINEAR
        )
    left, top = round((resized.width - SIZE) / 2), round((resized.height - SIZE) / 2)
    pixels = np.asarray(resized.crop((left, top, left + SIZE, top + SIZE)), np.float32) / 255
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    normalized = (pixels - mean) / deviation
    return np.ascontiguousarray(normalized.transpose(2, 0, 1)[None])


def test_features_and_classes_of_an_imported_network(
    photograph: Path, tmp_path: Path, start_server: Callable[..., Service]
) -> None:
    model = write_onnx(tmp_path / "model.onnx")
    (tmp_path / "labels.txt").write_text("cat\ndog\nhorse\ncow\nfrog\n")
    folder = tmp_path / "tiny"
    flags = ["-o", folder, "--preprocessing", "torchvision", "--labels", tmp_path / "labels.txt"]
    command = [sys.executable, "-m", "poolservice_server", "backbone", "import", str(model), *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    features, logits = session.run(["map", "logits"], {"pixels": _torchvision(photograph)})
    with PoolClient(start_server("--backbone", str(folder)).address) as client:
        pooled = client.pool(photograph, GlobalAvgPool2d(), backbone="tiny", output="features")
        np.testing.assert_allclose(pooled, features[0].mean((1, 2)), rtol=1e-4, atol=1e-5)
        explanation = client.explain(photograph, backbone="tiny", top=1)
    best = int(logits[0].argmax())
    assert explanation.labels == (("cat", "dog", "horse", "cow", "frog")[best],)
    assert explanation.maps is not None
    expected = np.einsum("c,chw->hw", WEIGHT[best], features[0])
    np.testing.assert_allclose(explanation.maps[0], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(explanation.maps[0].mean() + BIAS[best], explanation.logits[0], rtol=1e-3)
