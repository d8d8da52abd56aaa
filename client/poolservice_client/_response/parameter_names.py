"""Parameter names: translating the wire's fields in a server's errors to the names that the caller wrote."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from google.rpc import error_details_pb2

from poolservice.errors import InvalidRequest

# Longer paths come first, because a path also matches the fields below it.
_PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "output.l2_normalize": "normalize",
        "image.color_mode": "color_mode",
        "output.format": "output",
        "output.dtype": "dtype",
        "classification.top": "top",
        "classification.classes": "classes",
        "classification.activation_maps": "maps",
        "classification": "backbone",
        "tensor.shape": "x.shape",
        "tensor.dtype": "x.dtype",
        "tensor": "x",
        "image": "x",
        "payload": "x",
    }
)
# specs[0].max_pool.kernel_size becomes specs[0].kernel_size: the caller's spec already names the operator.
_SPEC_FIELD = re.compile(r"(specs\[\d+\])\.\w+\.(\w+)")
# Likewise specs[0].sequential.layers[1].max_pool.kernel_size becomes specs[0].layers[1].kernel_size.
_LAYER_FIELD = re.compile(r"(specs\[\d+\])\.sequential\.(layers\[\d+\])(?:\.\w+(\.\w+))?")
# Names of enum values in the descriptions of errors about the output.
_OUTPUT_NAMES = (("FEATURE_VECTOR", "features"), ("TENSOR", "tensor"), ("IMAGE", "an image"), ("FLOAT16", "float16"))


def invalid_request_error(violations: "list[error_details_pb2.BadRequest.FieldViolation]") -> InvalidRequest:
    """Return the error for one or more field violations. Its `field` is that of the first one."""
    first, *others = violations
    reason = "; ".join(
        (_reason(first), *(f"{parameter_name(other.field)}: {_reason(other)}" for other in others)),
    )
    return InvalidRequest(reason, field=parameter_name(first.field))


def parameter_name(field: str) -> str:
    """Return the SDK's name of a PoolRequest's field: specs[1].kernel_size for specs[1].max_pool.kernel_size."""
    if match := _SPEC_FIELD.fullmatch(field):
        return f"{match[1]}.{match[2]}"
    if match := _LAYER_FIELD.fullmatch(field):
        return f"{match[1]}.{match[2]}{match[3] or ''}"
    for path, name in _PARAMETERS.items():
        if field == path or field.startswith((f"{path}.", f"{path}[")):
            # tensor.shape[1] becomes x.shape[1]; other subfields have no name in Python.
            return name + field[len(path) :] if field[len(path) :].startswith("[") else name
    return field


def _reason(violation: error_details_pb2.BadRequest.FieldViolation) -> str:
    reason: str = violation.description
    if violation.field.startswith("output."):
        for wire_name, name in _OUTPUT_NAMES:
            reason = re.sub(rf"\b{wire_name}\b", name, reason)
    return reason
