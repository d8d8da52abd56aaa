"""What a request asked for, in a few short values for logs and traces: never its payload."""

from typing import NamedTuple

from poolservice_server.core.backbone_request import BackboneRequest
from poolservice_server.core.request_record import RequestRecord
from poolservice_server.core.scanned_image import ImageRequest
from poolservice_server.foreign_text import quote

# A backbone's name comes from the caller. Those that exist are shorter.
_MAX_NAME = 64
# Sizes can have many digits.
_MAX_SPEC = 120


class RequestSummary(NamedTuple):
    """What a request asked for, as far as it was validated.

    Attributes:
        specs: the specs, such as MaxPool2d(kernel_size=2).
        shape: the shape of the tensor, of the decoded image, or of the preprocessed samples of a backbone.
        dtype: its dtype.
        backbone: the name of the backbone; empty without one.
        tap: the name of its output; empty for the default one.
    """

    specs: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = ""
    backbone: str = ""
    tap: str = ""


def summarize(record: RequestRecord) -> RequestSummary:
    """Return the summary of a request, which may have failed."""
    head, prepared = record.head, record.prepared
    if head is None:
        return RequestSummary()
    specs = tuple(quote(repr(spec), _MAX_SPEC) for spec in head.specs)
    if head.backbone is not None:
        shape = head.backbone.shape or ()
        if isinstance(prepared, BackboneRequest):
            shape = prepared.plan.samples_shape
        name, tap = (quote(text, _MAX_NAME) for text in (head.backbone.name, head.backbone.tap))
        return RequestSummary(specs, shape, "float32", name, tap)
    plan = prepared.plan if isinstance(prepared, ImageRequest) else head.tensor_plan
    return RequestSummary(specs) if plan is None else RequestSummary(specs, plan.shape, plan.dtype.name)
