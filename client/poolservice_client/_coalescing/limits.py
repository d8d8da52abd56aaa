"""The limits of coalescing: which calls are coalesced, how many in one message, and how long a call waits."""

from typing import NamedTuple

from poolservice_client._request.payload import Payload
from poolservice_client._request.query import PoolQuery
from poolservice_client._request.template import RequestTemplate


class MessageLimits(NamedTuple):
    """The size of a full message. A message ends with the call that reaches one of the limits.

    Attributes:
        nbytes: the bytes of its payloads, or of the responses if those are larger.
        calls: the number of its calls.
        waits_for_more: whether a message that is not full follows the last one only after `OVERLAP_SECONDS`.
    """

    nbytes: int
    calls: int
    waits_for_more: bool = True


#: Messages in flight at one time. While the server computes one, the client encodes the next one or distributes the
#: results of the last one. With a third message, calls are no faster, but their latency grows and more memory is in
#: use. A client with more connections, of which it has one to each worker of the server, may have a message in flight
#: on each.
DEPTH = 2
#: Tensors. For 32 callers, client and server use 0.2 ms of CPU time for a call of 100 KB, of which sending a message
#: takes 0.04 ms at 1 MiB. At 512 KiB they use a fifth more, at 256 KiB nearly half more. Calls that fill less than one
#: message, such as 32 of 2 or 25 KB, are as fast in one message as in two halves, and use less CPU time. With
#: more than 64 calls per message, a call is no cheaper.
TENSORS = MessageLimits(2**20, 64)
#: Images. Decoding takes much longer than sending. For 32 callers with images of 7 or 21 KB, 64 calls per message use
#: no less CPU time than 16 but have a median latency a seventh longer, since no image is returned before the last one
#: of its message. 8 calls per message use up to a tenth more CPU time.
IMAGES = MessageLimits(2**20, 16)
#: Inputs of a backbone. Each takes the server milliseconds, so the second message is not delayed. No result returns
#: before the last one of its message: with more than 8 calls, a burst of calls would wait longer for the first results.
#: With fewer, two messages in flight would not keep the cores of a server busy. For 8 callers with images of 21 KB that
#: take the server 7 ms, the client uses 0.27 ms of CPU time per call instead of 0.6. If it runs on the same two cores,
#: a tenth more calls per second follow (2-core x86-64, November 2026).
BACKBONES = MessageLimits(2**20, 8, waits_for_more=False)
#: The time after which a message that is not full follows the last one: by then the client has prepared and settled a
#: message of 1 MiB even on a busy machine, so a response that takes longer leaves it idle. A shorter time would split
#: calls that fit in one message: at 2 ms, 8 callers on a busy machine share a message with 7.3 calls instead of 7.7 and
#: use a tenth more CPU time.
OVERLAP_SECONDS = 0.005
#: The largest payload or response of a coalesced call; larger calls get a message of their own. `make bench-coalesce`
#: measures the gain by size. For 32 callers, coalescing saves more than half of the CPU time of 100 KB tensors and a
#: quarter of that of 256 KB tensors, whose responses it delays. It saves a third of the CPU time of 21 KB images and a
#: quarter of that of 66 KB images, a tenth of that of 150 KB images, which become no faster but wait for each other.
MAX_TENSOR_BYTES = 128 * 1024
MAX_IMAGE_BYTES = 96 * 1024
#: The longest time that a call waits for the response to another one, so that a slow server delays it only briefly.
MAX_WAIT_SECONDS = 0.02


def kind_of(query: PoolQuery, template: RequestTemplate) -> int:
    """Return which calls a call may share a message with: 0 for tensors, 1 for images, 2 for inputs of a backbone.

    A tensor would wait for an image, and an image for a backbone.
    """
    return int(template.is_image) if query.backbone is None else 2


def coalesced_bytes(query: PoolQuery, template: RequestTemplate, payload: Payload) -> int:
    """Return a call's share of the size limit of a message, in bytes; 0 if it needs a message of its own."""
    if query.output == "image" or not query.may_share_messages:
        return 0
    nbytes = payload.nbytes + template.parameter_bytes or 1
    if nbytes < template.response_bytes:
        nbytes = template.response_bytes
    return 0 if nbytes > (MAX_IMAGE_BYTES if template.is_image else MAX_TENSOR_BYTES) else nbytes
