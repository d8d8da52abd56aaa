"""The linear head that `backbone import` finds in an ONNX file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.backbones.importing.conftest import Command
from tests.backbones.importing.graphs import BIAS, CHANNELS, CONVOLUTION, HEAD, WEIGHT, node, write_onnx

from poolservice_server.backbones.folder import read_folder
from poolservice_server.backbones.importing import imported
from poolservice_server.backbones.importing.graph import Graph
from poolservice_server.backbones.importing.linear_head import LinearHead, find_linear_head

PRESET = ("--preprocessing", "torchvision")
FLAT = [node("GlobalAveragePool", ["map"], "pooled"), node("Flatten", ["pooled"], "vector")]


@pytest.mark.parametrize(
    "head",
    [
        [*FLAT, node("Gemm", ["vector", "transposed", "bias"], "logits")],
        [*FLAT, node("Gemm", ["vector", "half", "bias"], "logits", alpha=2.0, transB=1)],
        [*FLAT, node("MatMul", ["vector", "transposed"], "product"), node("Add", ["product", "bias"], "logits")],
        [*FLAT, node("MatMul", ["vector", "transposed"], "product"), node("Add", ["bias", "product"], "logits")],
        [
            node("ReduceMean", ["map", "axes"], "vector", keepdims=0),
            node("Dropout", ["vector"], "kept"),
            node("Gemm", ["kept", "weight", "bias"], "logits", transB=1),
        ],
        [
            node("ReduceMean", ["map", "negative_axes"], "pooled", keepdims=1),
            node("Reshape", ["pooled", "shape"], "vector"),
            node("Identity", ["weight"], "alias"),
            node("Gemm", ["vector", "alias", "bias"], "logits", transB=1),
        ],
        [
            node("Cast", ["map"], "same_map", to=onnx.TensorProto.FLOAT),
            node("ReduceMean", ["same_map", "axes"], "vector", keepdims=0),
            node("Cast", ["vector"], "same", to=onnx.TensorProto.FLOAT),
            node("MatMul", ["same", "transposed"], "product"),
            node("Cast", ["product"], "same_product", to=onnx.TensorProto.FLOAT),
            node("Add", ["same_product", "bias"], "logits"),
        ],
        [
            node("AveragePool", ["map"], "pooled", kernel_shape=[8, 8]),
            node("Squeeze", ["pooled", "axes"], "vector"),
            node("Gemm", ["vector", "weight", "bias"], "logits", transB=1),
        ],
    ],
    ids=["gemm", "gemm-with-alpha", "matmul-add", "add-first", "reduce-mean", "reshape", "casts", "average-pool"],
)
def test_the_linear_head_is_found_however_exporters_write_it(
    backbone: Command, tmp_path: Path, head: list[onnx.NodeProto]
) -> None:
    constants: dict[str, np.ndarray] = {
        "transposed": np.ascontiguousarray(WEIGHT.T),
        "half": WEIGHT / 2,
        "axes": np.array([2, 3], np.int64),
        "negative_axes": np.array([-1, -2], np.int64),
        "shape": np.array([0, CHANNELS], np.int64),
    }
    model = write_onnx(tmp_path / "model.onnx", [*CONVOLUTION, *head], constants=constants)
    done = backbone("import", model, "-o", tmp_path / "tiny", *PRESET)
    assert done.status == 0, done.stderr
    found = read_folder(tmp_path / "tiny", allow_code_models=False).head
    assert found is not None
    np.testing.assert_allclose(found.weight, WEIGHT, rtol=1e-6)
    np.testing.assert_array_equal(found.bias, BIAS)


@pytest.mark.parametrize(
    "head",
    [
        [*FLAT, node("Relu", ["vector"], "kept"), node("Gemm", ["kept", "weight", "bias"], "logits", transB=1)],
        [node("GlobalMaxPool", ["map"], "pooled"), *FLAT[1:], *HEAD[2:]],
        [*FLAT, node("Gemm", ["vector", "weight", "vector_bias"], "logits", transB=1)],
    ],
    ids=["a layer between", "maximum", "bias that is computed"],
)
def test_a_head_that_is_not_linear_is_left_out(backbone: Command, tmp_path: Path, head: list[onnx.NodeProto]) -> None:
    nodes = [*CONVOLUTION, node("Identity", ["bias"], "plain_bias"), node("Relu", ["plain_bias"], "vector_bias"), *head]
    model = write_onnx(tmp_path / "model.onnx", nodes)
    done = backbone("import", model, "-o", tmp_path / "tiny", *PRESET)
    assert done.status == 0, done.stderr
    assert "no linear head" in done.stdout
    assert read_folder(tmp_path / "tiny", allow_code_models=False).head is None


def test_a_head_whose_results_differ_is_left_out_with_a_note(
    backbone: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_head(graph: Graph) -> LinearHead | None:
        head = find_linear_head(graph)
        return None if head is None else head._replace(bias=head.bias + 1)

    monkeypatch.setattr(imported, "find_linear_head", wrong_head)
    done = backbone("import", write_onnx(tmp_path / "model.onnx"), "-o", tmp_path / "tiny", *PRESET)
    assert done.status == 0, done.stderr
    assert "look like a linear head, but their results differ" in done.stdout
    assert read_folder(tmp_path / "tiny", allow_code_models=False).head is None


def test_the_averages_that_scale_a_map_are_no_head(backbone: Command, tmp_path: Path) -> None:
    scaled = [*FLAT[:1], node("Mul", ["map", "pooled"], "scaled"), node("Relu", ["scaled"], "out")]
    model = write_onnx(tmp_path / "model.onnx", [*CONVOLUTION, *scaled], outputs={"out": ("N", CHANNELS, 8, 8)})
    done = backbone("import", model)
    assert "out     map   8 x 8 x 8  Relu     the default choice, an output of the file" in done.stdout


def test_a_head_without_classes_is_no_head(backbone: Command, tmp_path: Path) -> None:
    head = [*FLAT, node("Gemm", ["vector", "none", "nothing"], "logits", transB=1)]
    constants = {"none": np.zeros((0, CHANNELS), np.float32), "nothing": np.zeros(0, np.float32)}
    model = write_onnx(
        tmp_path / "model.onnx", [*CONVOLUTION, *head], constants=constants, outputs={"logits": ("N", 0)}
    )
    done = backbone("import", model, "-o", tmp_path / "tiny", *PRESET)
    assert done.status == 0, done.stderr
    assert read_folder(tmp_path / "tiny", allow_code_models=False).head is None
