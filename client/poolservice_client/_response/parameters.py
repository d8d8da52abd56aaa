"""From the wire's fields and words to the parameters that a caller of the SDK wrote."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from google.rpc import error_details_pb2

from poolservice.errors import InvalidRequest

# The longest first: what is under a field is looked up under the field itself too.
_PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "output.l2_normalize": "normalize",
        "image.color_mode": "color_mode",
        "output.format": "output",
        "output.dtype": "dtype",
        "tensor.shape": "x.shape",
        "tensor.dtype": "x.dtype",
        "tensor": "x",
        "image": "x",
        "payload": "x",
    }
)
# specs[0].max_pool.kernel_size: which operator it is, the spec at that place says itself.
_OF_SPEC = re.compile(r"(specs\[\d+\])\.\w+\.(\w+)")
# The names of enum values, in what is said of an output.
_OUTPUT_WORDS = (("FEATURE_VECTOR", "features"), ("TENSOR", "tensor"), ("IMAGE", "a picture"), ("FLOAT16", "float16"))


def refusal(violations: "list[error_details_pb2.BadRequest.FieldViolation]") -> InvalidRequest:
    """The error for what a server says of a request's fields, one or more: the first is the error's own."""
    first, *others = violations
    reason = "; ".join(
        (_reason(first), *(f"{parameter(other.field)}: {_reason(other)}" for other in others)),
    )
    return InvalidRequest(reason, field=parameter(first.field))


def parameter(field: str) -> str:
    """The SDK's name of a field of a PoolRequest: specs[1].kernel_size of specs[1].max_pool.kernel_size, say."""
    if of_spec := _OF_SPEC.fullmatch(field):
        return f"{of_spec[1]}.{of_spec[2]}"
    for path, name in _PARAMETERS.items():
        if field == path or field.startswith((f"{path}.", f"{path}[")):
            # An element of a shape is one of x.shape too; what else a field holds has no name in Python.
            return name + field[len(path) :] if field[len(path) :].startswith("[") else name
    return field


def _reason(violation: error_details_pb2.BadRequest.FieldViolation) -> str:
    reason: str = violation.description
    if violation.field.startswith("output."):
        for word, said in _OUTPUT_WORDS:
            reason = re.sub(rf"\b{word}\b", said, reason)
    return reason
