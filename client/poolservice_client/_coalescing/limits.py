"""The limits of coalescing: which calls are coalesced, how many in one message, and how long a call waits."""

from poolservice_client._request.payload import Payload
from poolservice_client._request.template import RequestTemplate

#: Calls in one message. Measured: with more calls per message, a call is no cheaper.
MAX_CALLS = 64
#: Bytes of the payloads in one message, or of the responses if those are larger: far below every default size limit.
MAX_BYTES = 2**20
#: The largest payload or response of a coalesced call; larger calls get a message of their own. `make bench-coalesce`
#: measures the gain by size. For 32 callers, coalescing saves more than half of the CPU time of 100 KB tensors and a
#: quarter of that of 256 KB tensors, whose responses it delays. It saves a third of the CPU time of 21 KB images
#: and none of that of 66 KB images.
MAX_TENSOR_BYTES = 128 * 1024
MAX_IMAGE_BYTES = 32 * 1024
#: The longest time that a call waits for the response to another one, so that a slow server delays it only briefly.
MAX_WAIT_SECONDS = 0.02


def coalesced_bytes(template: RequestTemplate, payload: Payload) -> int:
    """Return a call's share of the size limit of a message, in bytes; 0 if it needs a message of its own."""
    nbytes = payload.nbytes or 1
    if nbytes < template.response_bytes:
        nbytes = template.response_bytes
    return 0 if nbytes > (MAX_IMAGE_BYTES if template.is_image else MAX_TENSOR_BYTES) else nbytes
