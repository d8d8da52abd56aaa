"""ONNX models on a GPU, by onnxruntime's CUDA provider.

Written against onnxruntime's interface and tested with its CPU provider: the build machines have no GPU. The samples
and the outputs are torch tensors that onnxruntime reads and writes in place.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnxruntime
import torch

from poolservice_server.backbones.engines.engine import EngineError
from poolservice_server.backbones.engines.onnx_engine import (
    ORT_ERRORS,
    checked_input,
    open_session,
    ort_message,
    run_error,
)

CUDA_PROVIDER = "CUDAExecutionProvider"

_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


class OnnxGpuEngine:
    """An ONNX model on a GPU, in float32.

    Args:
        data: the ONNX file.
        external_data: the files that hold tensors of the model, by path inside the folder.
        device: the GPU, as torch names it.
        input_name: the name of the graph's input; None for its only one.
        input_shape: the shape of a sample, (C, H, W).

    Attributes:
        takes_batches: False if the model was exported for one sample at a time.

    Raises:
        EngineError: the model is refused, or onnxruntime cannot load it.
    """

    name = "onnxruntime"
    threads = 1

    def __init__(
        self,
        data: bytes,
        *,
        device: torch.device,
        input_shape: tuple[int, int, int],
        input_name: str | None = None,
        external_data: Mapping[str, bytes] | None = None,
    ) -> None:
        self._type, self._index = device.type, device.index or 0
        providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            # Without TF32, which rounds float32 to 10 bits of mantissa.
            providers.insert(0, (CUDA_PROVIDER, {"device_id": str(self._index), "use_tf32": "0"}))
        # The session may use these bytes as long as it lives.
        self._external_data = external_data or {}
        self._session = open_session(data, self._external_data, 1, providers)
        # onnxruntime goes on without a provider whose libraries cannot be loaded.
        if device.type == "cuda" and CUDA_PROVIDER not in self._session.get_providers():
            raise EngineError(
                "onnxruntime cannot load its CUDA provider on this machine; install the CUDA libraries that it needs, "
                "or onnxruntime without that provider"
            )
        self._input = checked_input(self._session, input_name, input_shape)
        self.takes_batches = not isinstance(self._session.get_inputs()[0].shape[0], int)
        outputs = [output for output in self._session.get_outputs() if output.type in _DTYPES]
        self.tensors: Sequence[str] = [output.name for output in outputs]
        self._dtypes = {output.name: _DTYPES[output.type] for output in outputs}
        self._shapes = {output.name: self._sample_shape(output, input_shape) for output in outputs}

    def run(self, samples: torch.Tensor, tensors: Sequence[str]) -> list[torch.Tensor]:
        """Run the network; see `Engine`."""
        samples = samples.contiguous()
        outputs = [
            torch.empty((len(samples), *self._shapes[name]), dtype=self._dtypes[name], device=samples.device)
            for name in tensors
        ]
        binding = self._session.io_binding()
        self._bind(binding.bind_input, self._input, samples)
        for name, output in zip(tensors, outputs, strict=True):
            self._bind(binding.bind_output, name, output)
        if samples.is_cuda:
            # onnxruntime computes on a stream of its own, which must not start before torch has written the samples. A
            # run ends when the outputs are complete.
            torch.cuda.current_stream(samples.device).synchronize()
        try:
            self._session.run_with_iobinding(binding)
        except ORT_ERRORS as error:
            message = ort_message(error)
        else:
            return outputs
        raise run_error(message)

    def close(self) -> None:
        """Release the memory."""
        del self._session

    def _bind(self, bind: Callable[..., None], name: str, tensor: torch.Tensor) -> None:
        dtype = np.float16 if tensor.dtype is torch.float16 else np.float32
        bind(name, self._type, self._index, dtype, tuple(tensor.shape), tensor.data_ptr())

    def _sample_shape(self, output: onnxruntime.NodeArg, input_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the shape of an output for one sample, which the graph says or a run shows."""
        shape = output.shape[1:]
        if not all(isinstance(size, int) for size in shape):
            try:
                (array,) = self._session.run([output.name], {self._input: np.zeros((1, *input_shape), np.float32)})
            except ORT_ERRORS as error:
                raise EngineError(f"onnxruntime cannot run the network: {ort_message(error)}") from None
            shape = array.shape[1:]
        return tuple(shape)
