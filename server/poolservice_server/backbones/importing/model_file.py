"""Reads an ONNX file."""

from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from poolservice_server.backbones.engines.engine import EngineError
from poolservice_server.backbones.engines.onnx_check import checked_model
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.foreign_text import quote

# A message of protobuf, and so an ONNX file, cannot be larger.
_MAX_BYTES = 2**31 - 1


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model of an ONNX file, including the tensors of its external data files.

    Raises:
        ImportFailed: the file cannot be read, is no ONNX model, or is one that the server refuses.
    """
    try:
        model = onnx.load(str(path))
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        raise ImportFailed(f"{path}: cannot be read as an ONNX model: {_first_line(error)}") from None
    if not model.graph.node or not model.opset_import:
        raise ImportFailed(f"{path}: is no ONNX model: it has no operators")
    if model.ByteSize() > _MAX_BYTES:
        raise ImportFailed(f"{path}: has {model.ByteSize()} bytes of tensors; an ONNX file can hold {_MAX_BYTES}")
    if not all(isinstance(name, str) for node in model.graph.node for name in (*node.input, *node.output)):
        raise ImportFailed(f"{path}: is a wrong ONNX model: its names must be UTF-8")
    try:
        onnx.checker.check_model(model)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    except UnicodeError:
        raise ImportFailed(f"{path}: is a wrong ONNX model: its names must be UTF-8") from None
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise ImportFailed(f"{path}: is a wrong ONNX model: {_first_line(error)}") from None
    try:
        return checked_model(model.SerializeToString(), {})
    except EngineError as error:
        raise ImportFailed(f"{path}: {error}") from None


def _first_line(error: Exception) -> str:
    return quote((str(error) or type(error).__name__).splitlines()[0])
