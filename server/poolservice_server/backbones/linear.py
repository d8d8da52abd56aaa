"""Linear maps that a backbone's folder stores as safetensors: the classification head and projections."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from poolservice_server.foreign_text import quote


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear map of vectors: x @ weight.T + bias.

    Attributes:
        weight: float32 (D, C).
        bias: float32 (D,).
    """

    weight: np.ndarray
    bias: np.ndarray


class WrongTensors(Exception):
    """A safetensors file is damaged or has other tensors than it must have. The message completes "FILE ..."."""


def read_linear(content: bytes, kind: Literal["linear", "pca_whitening"]) -> Linear:
    """Return the linear map in a safetensors file.

    Args:
        content: the content of the file.
        kind: linear: the file has weight (D, C) and optionally bias (D,). pca_whitening: it has mean (C,), components
            (D, C) and variance (D,), as scikit-learn's PCA names them. The map is then
            (x - mean) @ components.T / sqrt(variance).

    Raises:
        WrongTensors: the file is damaged; a tensor is missing, unknown, of another shape or dtype; or one has values
            that are not finite.
    """
    tensors = read_tensors(content)
    if kind == "pca_whitening":
        _check_names(tensors, ("mean", "components", "variance"), ())
        weight, bias = _whitening(tensors)
    else:
        _check_names(tensors, ("weight",), ("bias",))
        weight = _matrix(tensors, "weight", "(D, C)")
        bias = _vector(tensors, "bias", len(weight)) if "bias" in tensors else np.zeros(len(weight))
    with np.errstate(over="ignore"):
        linear = Linear(np.array(weight, np.float32, order="C"), np.array(bias, np.float32, order="C"))
    if not (np.isfinite(linear.weight).all() and np.isfinite(linear.bias).all()):
        raise WrongTensors("has values that are too large for float32")
    return linear


def _whitening(tensors: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias of PCA whitening, in float64."""
    components = _matrix(tensors, "components", "(D, C)")
    mean = _vector(tensors, "mean", components.shape[1])
    variance = _vector(tensors, "variance", len(components))
    if not (variance > 0).all():
        raise WrongTensors("must have only positive numbers in variance")
    weight = components / np.sqrt(variance)[:, None]
    return weight, -weight @ mean


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file.

    Raises:
        WrongTensors: the file is damaged, or a tensor has another dtype than float16, float32 or float64, or values
            that are not finite.
    """
    # Imported here because the package belongs to an optional extra.
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise WrongTensors(f"is not a safetensors file ({quote(str(error))})") from None
    except KeyError as error:
        raise WrongTensors(f"must have tensors of F16, F32 or F64; one is {error.args[0]}") from None
    for name, tensor in tensors.items():
        if tensor.dtype not in (np.float16, np.float32, np.float64):
            raise WrongTensors(f"must have tensors of F16, F32 or F64; {quote(name)} is {tensor.dtype}")
        if not np.isfinite(tensor).all():
            raise WrongTensors(f"must have only finite numbers in {quote(name)}")
    return tensors


def _check_names(tensors: Mapping[str, np.ndarray], needed: tuple[str, ...], optional: tuple[str, ...]) -> None:
    if set(needed) <= tensors.keys() <= {*needed, *optional}:
        return
    may = f" and may have {optional[0]}" if optional else ""
    found = quote(", ".join(sorted(tensors)[:10])) or "none"
    raise WrongTensors(f"must have the tensors {', '.join(needed)}{may}; it has {found}")


def _matrix(tensors: Mapping[str, np.ndarray], name: str, shape: str) -> np.ndarray:
    """Return a matrix in float64."""
    matrix = tensors[name]
    if matrix.ndim != 2 or not matrix.size:
        raise WrongTensors(f"must have a matrix {shape} in {name}; its shape is {matrix.shape}")
    return matrix.astype(np.float64)


def _vector(tensors: Mapping[str, np.ndarray], name: str, length: int) -> np.ndarray:
    """Return a vector in float64."""
    vector = tensors[name]
    if vector.shape != (length,):
        raise WrongTensors(f"must have {length} numbers in {name}; its shape is {vector.shape}")
    return vector.astype(np.float64)
