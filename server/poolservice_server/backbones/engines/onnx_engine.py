"""ONNX models by onnxruntime, the default engine on the CPU. An ONNX file holds no code."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from poolservice_server.backbones.engines.engine import EngineError, first_line, listed
from poolservice_server.backbones.engines.onnx_check import checked_model
from poolservice_server.backend.device import DeviceFailed, DeviceOutOfMemory

_OUT_OF_MEMORY = re.compile(r"bad_alloc|[Ff]ailed to allocate memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_DEVICE_FAILURE = re.compile(r"\bCUDA (error|failure)|\bCUDNN|\bCUBLAS|\bHIP error", re.IGNORECASE)

#: The errors that onnxruntime raises have no common base class of their own.
ORT_ERRORS = (
    errors.EPFail,
    errors.EngineError,
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NoSuchFile,
    errors.NotImplemented,
    errors.RuntimeException,
)

# Only what ends the process. An error is raised as well, and a warning tells a caller nothing.
_LOG_SEVERITY = 4
onnxruntime.set_default_logger_severity(_LOG_SEVERITY)
onnxruntime.disable_telemetry_events()


class OnnxEngine:
    """An ONNX model on the CPU. All threads share one session.

    The threads of a run never spin while they wait: with two spinning threads, a run of MobileNetV2 took 1.5 to 2 times
    the CPU time. The memory arena stays on. Each concurrent run takes as much of it as the first one, because all
    samples have one size. Without it, buffers of more than 32 MiB are mapped anew for each run: MobileNetV2 took 7.3 ms
    with and without it at 224x224, but 73 against 105 ms at 672x672 (November 2026, two cores).

    Args:
        data: the ONNX file.
        external_data: the files that hold tensors of the model, by path inside the folder.
        threads: the number of threads that compute one run.
        input_name: the name of the graph's input; None for its only one.
        input_shape: the shape of a sample, (C, H, W).

    Raises:
        EngineError: the model is refused, or onnxruntime cannot load it.
    """

    name = "onnxruntime"

    def __init__(
        self,
        data: bytes,
        *,
        threads: int,
        input_shape: tuple[int, int, int],
        input_name: str | None = None,
        external_data: Mapping[str, bytes] | None = None,
    ) -> None:
        self.threads = threads
        # The session may use these bytes as long as it lives.
        self._external_data = external_data or {}
        self._session = open_session(data, self._external_data, threads, ["CPUExecutionProvider"])
        self._input = checked_input(self._session, input_name, input_shape)
        self.tensors: Sequence[str] = [output.name for output in self._session.get_outputs()]

    def run(self, samples: np.ndarray, tensors: Sequence[str]) -> list[np.ndarray]:
        """Run the network; see `Engine`."""
        try:
            outputs: list[np.ndarray] = self._session.run(tensors, {self._input: samples})
        except ORT_ERRORS as error:
            message = ort_message(error)
        else:
            return outputs
        # Raised outside the handler, because the traceback holds the arrays of the run.
        raise run_error(message)

    def close(self) -> None:
        """Release the memory."""
        del self._session


def open_session(
    data: bytes, external_data: Mapping[str, bytes], threads: int, providers: Sequence[str | tuple[str, dict[str, str]]]
) -> onnxruntime.InferenceSession:
    """Check the model and open a session.

    Raises:
        EngineError: the model is refused, or onnxruntime cannot load it.
    """
    checked_model(data, {path: len(contents) for path, contents in external_data.items()})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _LOG_SEVERITY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # The check above read ONNX, so nothing else may be read now.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if external_data:
        # onnxruntime then opens no file: it takes the bytes whose hashes were verified.
        options.add_external_initializers_from_files_in_memory(
            list(external_data), list(external_data.values()), [len(contents) for contents in external_data.values()]
        )
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except (*ORT_ERRORS, RuntimeError, ValueError) as error:
        raise EngineError(f"onnxruntime cannot load the model: {ort_message(error)}") from None


def checked_input(session: onnxruntime.InferenceSession, name: str | None, shape: tuple[int, int, int]) -> str:
    """Return the name of the input for samples, if the samples suit it.

    Raises:
        EngineError: there is no such input, or samples do not suit it.
    """
    inputs = {argument.name: argument for argument in session.get_inputs()}
    if name is None:
        if len(inputs) != 1:
            raise EngineError(
                f"the ONNX model must have one input, or onnx.input must name it; it has {listed([*inputs])}"
            )
        (name,) = inputs
    elif name not in inputs:
        raise EngineError(f"onnx.input names {name}, and the inputs of the ONNX model are {listed([*inputs])}")
    elif len(inputs) != 1:
        others = [other for other in inputs if other != name]
        raise EngineError(f"the ONNX model needs further inputs, which no request has: {listed(others)}")
    argument = inputs[name]
    if argument.type != "tensor(float)":
        raise EngineError(f"the input {name} of the ONNX model must be float32; it is {argument.type}")
    # A dimension of any size is a name or None.
    suits = len(argument.shape) == 4 and all(
        not isinstance(size, int) or size == wanted for size, wanted in zip(argument.shape, (1, *shape), strict=True)
    )
    if not suits:
        raise EngineError(
            f"the input {name} of the ONNX model has the shape {argument.shape}, and backbone.toml says that a sample "
            f"is {list(shape)}, in batches of any size or of 1"
        )
    return name


def run_error(message: str) -> Exception:
    """Return the exception for an error that onnxruntime raised during a run."""
    if _OUT_OF_MEMORY.search(message):
        return DeviceOutOfMemory(message)
    if _DEVICE_FAILURE.search(message):
        return DeviceFailed(message)
    return EngineError(f"onnxruntime cannot run the network: {message}")


def ort_message(error: Exception) -> str:
    """Return the first line of an error of onnxruntime, without the code before it."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", first_line(error))
