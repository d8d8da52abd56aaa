"""Finds the linear classification head of a graph: logits = weight @ mean of a feature map + bias."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from poolservice_server.backbones.importing.graph import Graph

# Operators that change only the shape of a vector, or nothing, when a network does not train.
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Dropout", "Identity"})


class LinearHead(NamedTuple):
    """A linear head.

    Attributes:
        feature_map: the tensor that it averages, (N, C, H, W) or (N, H, W, C).
        logits: the tensor that it computes, (N, K).
        weight: float32 (K, C).
        bias: float32 (K,).
    """

    feature_map: str
    logits: str
    weight: np.ndarray
    bias: np.ndarray


def find_pooled_map(graph: Graph) -> str | None:
    """Return the feature map that the last global average pooling of the graph averages; None if there is none."""
    pooling = _last_pooling(graph, _constants(graph.model.graph))
    return None if pooling is None else pooling.input[0]


def find_linear_head(graph: Graph) -> LinearHead | None:
    """Return the linear head behind the last global average pooling; None if there is none.

    The head follows from the names of operators alone, so the caller must compare it with a run of the network.
    """
    constants = _constants(graph.model.graph)
    pooling = _last_pooling(graph, constants)
    if pooling is None:
        return None
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    vector = _behind_reshapes(pooling.output[0], consumers)
    for node in consumers.get(vector, []):
        layer = _linear_layer(node, vector, constants)
        if layer is None:
            continue
        weight, bias = layer
        logits = node.output[0]
        if node.op_type == "MatMul":
            logits, bias = _added_bias(_behind_reshapes(logits, consumers), consumers, constants, len(weight))
        if 0 < len(weight) == len(bias):
            return LinearHead(pooling.input[0], logits, weight.astype(np.float32), bias.astype(np.float32))
    return None


def _last_pooling(graph: Graph, constants: Mapping[str, np.ndarray]) -> onnx.NodeProto | None:
    """Return the last global average pooling whose result no feature map depends on.

    Squeeze-and-excitation blocks also average feature maps, and scale them by a function of the averages.
    """
    last = None
    derived: set[str] = set()
    for node in graph.model.graph.node:
        if last is not None and not derived.isdisjoint(node.input):
            derived.update(node.output)
            if any((use := graph.use_of(name)) is not None and use.kind == "map" for name in node.output):
                last = None
        if _is_global_average(node, graph, constants):
            last, derived = node, set(node.output)
    return last


def _behind_reshapes(tensor: str, consumers: Mapping[str, Sequence[onnx.NodeProto]]) -> str:
    """Return the tensor that has the same values behind operators that change only its shape."""
    while (following := consumers.get(tensor, ())) and _changes_only_the_shape(following[0]):
        tensor = following[0].output[0]
    return tensor


def _changes_only_the_shape(node: onnx.NodeProto) -> bool:
    if node.op_type == "Cast":
        return any(attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT for attribute in node.attribute)
    return node.op_type in _RESHAPES


def _is_global_average(node: onnx.NodeProto, graph: Graph, constants: Mapping[str, np.ndarray]) -> bool:
    shape = graph.shapes.get(node.input[0]) if node.input else None
    use = graph.use_of(node.input[0]) if shape is not None else None
    if use is None or use.kind != "map":
        return False
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "ReduceMean":
        axes = attributes.get("axes")
        if axes is None and len(node.input) > 1:
            axes = constants.get(node.input[1])
        spatial = {1, 2} if use.layout == "NHWC" else {2, 3}
        return axes is not None and {int(axis) % 4 for axis in np.ravel(axes)} == spatial
    if use.layout != "NCHW":
        return False
    if node.op_type == "AveragePool":
        return list(attributes["kernel_shape"]) == list(use.shape[1:]) and not any(attributes.get("pads", ()))
    return node.op_type == "GlobalAveragePool"


def _linear_layer(
    node: onnx.NodeProto, vector: str, constants: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the weight (K, C) and the bias of a layer that is applied to a vector."""
    if node.op_type not in ("Gemm", "MatMul") or node.input[0] != vector or node.input[1] not in constants:
        return None
    weight = constants[node.input[1]]
    if weight.ndim != 2:
        return None
    if node.op_type == "MatMul":
        return weight.T, np.zeros(weight.shape[1], np.float32)
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.get("transA", 0):
        return None
    weight = (weight if attributes.get("transB", 0) else weight.T) * attributes.get("alpha", 1.0)
    if len(node.input) < 3 or not node.input[2]:
        return weight, np.zeros(len(weight), np.float32)
    bias = constants.get(node.input[2])
    return None if bias is None else (weight, _vector(bias * attributes.get("beta", 1.0), len(weight)))


def _added_bias(
    product: str,
    consumers: Mapping[str, Sequence[onnx.NodeProto]],
    constants: Mapping[str, np.ndarray],
    classes: int,
) -> tuple[str, np.ndarray]:
    """Return the logits and the bias of a matrix product, to which the next operator may add the bias."""
    for node in consumers.get(product, ()):
        other = next((name for name in node.input if name != product), "")
        if node.op_type == "Add" and other in constants:
            return node.output[0], _vector(constants[other], classes)
    return product, np.zeros(classes, np.float32)


def _vector(bias: np.ndarray, classes: int) -> np.ndarray:
    """Return the bias with an element for each class. Its shape may be (1, K), or that of a scalar."""
    return np.full(classes, bias.item()) if bias.size == 1 else bias.ravel()


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Return the constants with at most two dimensions, which are those of a head."""
    constants = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if _may_be_of_a_head(tensor)
    }
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value" and _may_be_of_a_head(attribute.t):
                    constants[node.output[0]] = numpy_helper.to_array(attribute.t)
        elif node.op_type == "Identity" and node.input[0] in constants:
            # Exporters name a shared or renamed weight so.
            constants[node.output[0]] = constants[node.input[0]]
    return constants


def _may_be_of_a_head(tensor: onnx.TensorProto) -> bool:
    return len(tensor.dims) <= 2 and tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64)
