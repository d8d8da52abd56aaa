"""Programs that torch.export wrote. Reading one can run any code, so the operator must allow it."""

import io
from collections.abc import Sequence

import numpy as np
import structlog
import torch

from poolservice_server.backbones.engines.engine import EngineError, first_line
from poolservice_server.pooling.interop import to_array, to_tensor

_log = structlog.get_logger(__name__)


class ProgramEngine:
    """A `.pt2` program on the CPU, with one thread. Its tensors are the names of the program's outputs."""

    name = "torch"
    threads = 1

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self._network = program.module()
        self.tensors: Sequence[str] = [str(name) for name in program.graph_signature.user_outputs]

    def run(self, samples: np.ndarray, tensors: Sequence[str]) -> list[np.ndarray]:
        """Run the network; see `Engine`."""
        with torch.inference_mode():
            outputs = self._network(to_tensor(samples))
        outputs = dict(zip(self.tensors, (outputs,) if isinstance(outputs, torch.Tensor) else outputs, strict=True))
        return [to_array(outputs[name].contiguous()) for name in tensors]

    def close(self) -> None:
        """Release the memory."""
        del self._network


def load_program(data: bytes, name: str, *, allow_code_models: bool) -> ProgramEngine:
    """Load a program.

    Args:
        data: the contents of the `.pt2` file.
        name: the name of the backbone, for the log.
        allow_code_models: whether the operator allows models that can run code.

    Raises:
        EngineError: it is not allowed, or the file cannot be read.
    """
    if not allow_code_models:
        raise EngineError(
            "a .pt2 program can run any code while it is read; start the server with --allow-code-models if you trust "
            "the folder like the server's own code, or convert the program to ONNX"
        )
    _log.warning(
        "reading a .pt2 program, which can run any code with the rights of this server",
        backbone=name,
        remedy="convert it to ONNX, which holds no code",
    )
    try:
        program = torch.export.load(io.BytesIO(data))
    except Exception as error:  # noqa: BLE001 - torch raises errors of many types for a wrong file
        raise EngineError(f"torch cannot read the program: {type(error).__name__}: {first_line(error)}") from None
    return ProgramEngine(program)
