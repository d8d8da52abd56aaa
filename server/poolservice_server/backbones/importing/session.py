"""Runs ONNX models with onnxruntime on the CPU."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

from poolservice_server.backbones.engines.engine import first_line
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.foreign_text import quote

_STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
# Errors are reported by the exceptions.
_ONLY_FATAL_ERRORS = 4


class Session:
    """An ONNX model that is loaded.

    Raises:
        ImportFailed: onnxruntime cannot load the model.
    """

    def __init__(self, model: onnx.ModelProto, input_name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = _ONLY_FATAL_ERRORS
        self._input_name = input_name
        try:
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no common public base
            raise ImportFailed(f"onnxruntime cannot load the network: {_reason(error)}") from None

    def run(self, images: np.ndarray, tensors: Sequence[str]) -> dict[str, Any]:
        """Return outputs for images (N, C, H, W). Those that are no tensors are lists or dictionaries.

        Raises:
            ImportFailed: the network does not run with this number of images.
        """
        try:
            outputs = self._session.run(tensors, {self._input_name: images})
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no common public base
            raise ImportFailed(
                f"the network does not run with a batch of {len(images)} images of shape {images.shape[1:]}: "
                f"{_reason(error)}; export it with a dynamic batch size"
            ) from None
        return dict(zip(tensors, outputs, strict=True))


def measured_shapes(
    model: onnx.ModelProto, input_name: str, shape: tuple[int, int, int], tensors: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes that float32 tensors have in a run with one image.

    Args:
        model: the model.
        input_name: the name of its input.
        shape: the shape (C, H, W) of an image.
        tensors: the names of the tensors, of any types.

    Raises:
        ImportFailed: the network does not run.
    """
    with_outputs = onnx.ModelProto()
    with_outputs.CopyFrom(model)
    del with_outputs.graph.output[:]
    # onnxruntime infers the types.
    with_outputs.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    outputs = Session(with_outputs, input_name).run(np.zeros((1, *shape), np.float32), tensors)
    return {
        name: output.shape
        for name, output in outputs.items()
        if isinstance(output, np.ndarray) and output.dtype == np.float32
    }


def _reason(error: Exception) -> str:
    # The message starts with the name of the library, and the number and the name of a status.
    return quote(_STATUS.sub("", first_line(error)))
