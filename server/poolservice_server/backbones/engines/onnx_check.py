"""The checks of an ONNX file before onnxruntime reads it: no data outside the folder, and no custom operators."""

from collections.abc import Iterable, Iterator, Mapping

import onnx
from google.protobuf.message import DecodeError

from poolservice_server.backbones.engines.engine import EngineError, listed

# The operators of onnxruntime itself are com.microsoft; they are compiled into it and need no other library.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")

# These operators of onnxruntime name a file or call Python.
_REFUSED_OPERATORS = frozenset({"EPContext", "PythonOp", "PythonOpGrad"})

# The opset of each domain of which onnx has no schemas.
_OPSETS_OF_ONNXRUNTIME = {"com.microsoft": 1}

# protobuf refuses larger messages.
_MAX_BYTES = 2**31 - 1

# No file has a size of more digits.
_MAX_DIGITS = 20


def checked_model(data: bytes, external_data: Mapping[str, int]) -> onnx.ModelProto:
    """Parse an ONNX file and refuse what the server does not run.

    Args:
        data: the contents of the file.
        external_data: the sizes of the files that may hold tensors of the model, by path inside the folder.

    Raises:
        EngineError: the file is no ONNX model, or it needs something that is refused.
    """
    if len(data) > _MAX_BYTES:
        raise EngineError(f"the ONNX file has {len(data)} bytes, and at most {_MAX_BYTES} are possible")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise EngineError("the file is not an ONNX model") from None
    if not model.graph.node:
        raise EngineError("the file is not an ONNX model, or its graph has no nodes")
    if model.training_info:
        raise EngineError(
            "the ONNX model holds training information, which the server does not run; export it to infer"
        )
    _check_opsets(model.opset_import)
    for function in model.functions:
        _check_domain(function.domain, f"the function {function.name}")
        _check_opsets(function.opset_import)
        _check_nodes(function.node)
    for graph in _graphs(model):
        _check_nodes(graph.node)
        for tensor in graph.initializer:
            _check_data(tensor, external_data)
        for sparse in graph.sparse_initializer:
            for tensor in (sparse.values, sparse.indices):
                _refuse_external(tensor, "a sparse tensor")
    return model


def _check_opsets(opsets: Iterable[onnx.OperatorSetIdProto]) -> None:
    for opset in opsets:
        if opset.domain not in _DOMAINS:
            # Exporters declare domains that no node uses. A node of one is refused by itself.
            continue
        newest = _newest_opset(opset.domain)
        if not 1 <= opset.version <= newest:
            raise EngineError(
                f"the ONNX model needs version {opset.version} of the operators of {opset.domain or 'ai.onnx'}, and "
                f"the installed packages know versions up to {newest}; export it for an older one, or upgrade onnx and "
                "onnxruntime"
            )


def _newest_opset(domain: str) -> int:
    if domain in _OPSETS_OF_ONNXRUNTIME:
        return _OPSETS_OF_ONNXRUNTIME[domain]
    return int(onnx.defs.onnx_ml_opset_version() if domain == "ai.onnx.ml" else onnx.defs.onnx_opset_version())


def _check_domain(domain: str, what: str) -> None:
    if domain not in _DOMAINS:
        raise EngineError(
            f"the ONNX model has {what} of the domain {domain}, and the server runs operators of "
            f"{listed(_DOMAINS[1:])} only; export it without custom operators, and with its functions inlined"
        )


def _check_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        _check_domain(node.domain, f"the operator {node.op_type}")
        if node.op_type in _REFUSED_OPERATORS:
            raise EngineError(f"the ONNX model has the operator {node.op_type}, which can load files or run code")
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                _refuse_external(tensor, f"an attribute of the operator {node.op_type}")
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                for tensor in (sparse.values, sparse.indices):
                    _refuse_external(tensor, f"an attribute of the operator {node.op_type}")


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph, and each graph inside a node of another or of a function."""
    waiting = [model.graph]
    for function in model.functions:
        waiting.extend(_inner_graphs(function.node))
    while waiting:
        graph = waiting.pop()
        waiting.extend(_inner_graphs(graph.node))
        yield graph


def _inner_graphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _check_data(tensor: onnx.TensorProto, external_data: Mapping[str, int]) -> None:
    """Check that the data of an initializer is in the model, or in a file that the manifest lists."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if location not in external_data:
        raise EngineError(
            f"the ONNX model keeps the tensor {tensor.name} in the file {location!r}, which backbone.toml does not "
            "list under [[onnx.external_data]]"
        )
    start, length = entries.get("offset", "0"), entries.get("length", "0")
    if not (_is_size(start) and _is_size(length) and int(start) + int(length) <= external_data[location]):
        raise EngineError(
            f"the ONNX model keeps the tensor {tensor.name} outside of {location}, which has {external_data[location]} "
            f"bytes: in {length} bytes from byte {start} on"
        )


def _is_size(text: str) -> bool:
    # int() refuses thousands of digits with an error of its own.
    return text.isdecimal() and len(text) <= _MAX_DIGITS


def _refuse_external(tensor: onnx.TensorProto, owner: str) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise EngineError(f"the ONNX model keeps {owner} in another file, which is possible for initializers only")
