"""ONNX files for the tests of the import: one convolution, and what exporters put behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

CHANNELS = 8
CLASSES = 5
SIZE = 32

_random = np.random.default_rng(3)
#: The parameters of the convolution (3x3, stride 4) and of the classifier.
KERNEL = _random.standard_normal((CHANNELS, 3, 3, 3)).astype(np.float32)
WEIGHT = _random.standard_normal((CLASSES, CHANNELS)).astype(np.float32)
BIAS = _random.standard_normal(CLASSES).astype(np.float32)

#: What computes the feature map (N, 8, 8, 8) named "map" from the tensor "pixels".
CONVOLUTION = (
    helper.make_node("Conv", ["pixels", "kernel"], ["convolved"], strides=[4, 4], pads=[1, 1, 1, 1]),
    helper.make_node("Relu", ["convolved"], ["map"]),
)
#: The usual head: the tensor "logits" of the map.
HEAD = (
    helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["vector"]),
    helper.make_node("Gemm", ["vector", "weight", "bias"], ["logits"], transB=1),
)


def write_onnx(
    path: Path,
    nodes: Sequence[NodeProto] = (*CONVOLUTION, *HEAD),
    *,
    input: Sequence[int | str | None] = ("N", 3, SIZE, SIZE),
    dtype: int = TensorProto.FLOAT,
    outputs: Mapping[str, Sequence[int | str | None]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    inputs: Mapping[str, Sequence[int | str | None]] | None = None,
    domains: Mapping[str, int] | None = None,
) -> Path:
    """Write a model with the input "pixels" and by default the output "logits"; return its path."""
    parameters = {"kernel": KERNEL, "weight": WEIGHT, "bias": BIAS, **(constants or {})}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "network",
        [
            helper.make_tensor_value_info(name, dtype, shape)
            for name, shape in {"pixels": input, **(inputs or {})}.items()
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (outputs or {"logits": ("N", CLASSES)}).items()
        ],
        [numpy_helper.from_array(value, name) for name, value in parameters.items() if name in used],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in {"": 18, **(domains or {})}.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(model, str(path))
    return path


def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    """Return a node with one output."""
    return helper.make_node(operator, inputs, [output], **attributes)
