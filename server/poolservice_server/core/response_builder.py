"""What the device gave, as what the caller asked for."""

from collections.abc import Sequence

import numpy as np

from poolservice import codec
from poolservice.v1 import pool_pb2
from poolservice_server.core.plan import Plan, ResultPlan
from poolservice_server.images import encode_png
from poolservice_server.stages import SpecResult

_PNG_COLOR_MODES = {1: pool_pb2.COLOR_MODE_GRAY, 3: pool_pb2.COLOR_MODE_RGB, 4: pool_pb2.COLOR_MODE_RGBA}

# To copy so few bytes once more takes a tenth of the time that it takes to make a view of them.
_SOONER_COPIED = 4096


def results(plan: Plan, pooled: Sequence[SpecResult]) -> list[codec.Result]:
    """Each spec's result in the format that the plan asks for."""
    return [_result(plan, result, one) for result, one in zip(plan.results, pooled, strict=True)]


def _result(plan: Plan, result: ResultPlan, pooled: SpecResult) -> codec.Result:
    indices = None
    if pooled.indices is not None:
        indices = codec.Value("tensor", result.indices_head, _buffer(pooled.indices))
    if plan.output.format == "image":
        return codec.Result(_png(pooled.values.reshape(result.shape)), indices)
    # The bytes are the same in whatever shape they are sent.
    values = pooled.values
    if plan.output.l2_normalize:
        values = _normalized(values.reshape(result.sent_shape))
    if values.dtype != result.sent_dtype:
        # Halving may overflow to infinity, which the contract says.
        with np.errstate(over="ignore"):
            values = values.astype(result.sent_dtype)
    return codec.Result(codec.Value("tensor", result.tensor_head, _buffer(values)), indices)


def _png(planes: np.ndarray) -> codec.Value:
    head = pool_pb2.Image(color_mode=_PNG_COLOR_MODES[planes.shape[0]]).SerializeToString()
    return codec.Value("image", head, encode_png(planes))


def _normalized(vectors: np.ndarray) -> np.ndarray:
    """Each vector over its Euclidean norm, which is taken in float64 so that it neither overflows nor drifts."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    np.divide(wide, norms, out=wide, where=norms != 0)
    return wide


def _buffer(values: np.ndarray) -> codec.Buffer:
    if values.nbytes <= _SOONER_COPIED:
        return values.tobytes()
    # bfloat16 has no buffer format of its own, bytes do for every type.
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
