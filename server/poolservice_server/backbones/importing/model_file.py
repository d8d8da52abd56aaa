"""Reads an ONNX file."""

from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from poolservice_server.backbones.engines.engine import EngineError, first_line
from poolservice_server.backbones.engines.onnx_check import checked_model
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.foreign_text import quote

# A message of protobuf, and so an ONNX file, cannot be larger.
_MAX_BYTES = 2**31 - 1
_MAX_INLINED_NODES = 100_000


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model of an ONNX file, including the tensors of its external data files.

    Raises:
        ImportFailed: the file cannot be read, is no ONNX model, or is one that the server refuses.
    """
    try:
        model = onnx.load(str(path))
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        raise ImportFailed(f"{path}: cannot be read as an ONNX model: {quote(first_line(error))}") from None
    if not model.graph.node or not model.opset_import:
        raise ImportFailed(f"{path}: is no ONNX model: it has no operators")
    if model.ByteSize() > _MAX_BYTES:
        raise ImportFailed(f"{path}: has {model.ByteSize()} bytes of tensors; an ONNX file can hold {_MAX_BYTES}")
    if not all(isinstance(name, str) for node in model.graph.node for name in (*node.input, *node.output)):
        raise ImportFailed(f"{path}: is a wrong ONNX model: its names must be UTF-8")
    try:
        onnx.checker.check_model(model)
        if model.functions:
            _check_inlined_size(model, path)
            model = onnx.inliner.inline_local_functions(model)
    except UnicodeError:
        raise ImportFailed(f"{path}: is a wrong ONNX model: its names must be UTF-8") from None
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise ImportFailed(f"{path}: is a wrong ONNX model: {quote(first_line(error))}") from None
    try:
        return checked_model(model.SerializeToString(), {})
    except EngineError as error:
        raise ImportFailed(f"{path}: {error}") from None


def _check_inlined_size(model: onnx.ModelProto, path: Path) -> None:
    """Refuse functions that call each other so often that a small file fills the memory when they are inlined."""
    functions = {(one.domain, one.name, one.overload): one for one in model.functions}
    callees = {key: {_callee(node) for node in _all_nodes(one.node)} for key, one in functions.items()}
    sizes: dict[tuple[str, str, str], int] = {}
    # The checker has refused functions that call themselves.
    for key in TopologicalSorter(callees).static_order():
        if key in functions:
            sizes[key] = _inlined_size(functions[key].node, sizes)
    if _inlined_size(model.graph.node, sizes) > _MAX_BYTES:
        raise ImportFailed(
            f"{path}: its functions, inlined, have more than {_MAX_INLINED_NODES} operators or {_MAX_BYTES} bytes"
        )


def _inlined_size(nodes: Iterable[onnx.NodeProto], sizes: dict[tuple[str, str, str], int]) -> int:
    # A small operator counts as its share of the largest number of operators.
    least = _MAX_BYTES // _MAX_INLINED_NODES
    return sum(sizes.get(_callee(node), max(node.ByteSize(), least)) for node in _all_nodes(nodes))


def _callee(node: onnx.NodeProto) -> tuple[str, str, str]:
    """Return the key of the function that a node calls, if it calls one."""
    return node.domain, node.op_type, node.overload


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those of the graphs inside them. protobuf limits how deep these are."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _all_nodes(graph.node)
