"""Read and write the messages that carry tensors and images, copying their payload bytes at most once.

The wire format is protobuf's. The codec writes each message byte for byte as protobuf would. When reading, it splits
the layout that protobuf itself writes and passes any other layout on to the generated classes, so that every valid
message is read exactly as protobuf reads it.
"""

from poolservice.codec.batches import (
    MAX_BATCH_ITEMS,
    decode_batch_request,
    decode_batch_response,
    encode_batch_request,
    encode_batch_response,
)
from poolservice.codec.requests import (
    MAX_HEAD_BYTES,
    MAX_PARAMETERS_BYTES,
    Request,
    RequestEncoder,
    decode_request,
    parse_head,
)
from poolservice.codec.responses import (
    MalformedMessage,
    Response,
    Result,
    Value,
    decode_response,
    encode_response,
)
from poolservice.codec.streams import (
    decode_stream_request,
    decode_stream_response,
    encode_stream_request,
    encode_stream_response,
)
from poolservice.codec.wire import MAX_MESSAGE_BYTES, Buffer

__all__ = [
    "MAX_BATCH_ITEMS",
    "MAX_HEAD_BYTES",
    "MAX_MESSAGE_BYTES",
    "MAX_PARAMETERS_BYTES",
    "Buffer",
    "MalformedMessage",
    "Request",
    "RequestEncoder",
    "Response",
    "Result",
    "Value",
    "decode_batch_request",
    "decode_batch_response",
    "decode_request",
    "decode_response",
    "decode_stream_request",
    "decode_stream_response",
    "encode_batch_request",
    "encode_batch_response",
    "encode_response",
    "encode_stream_request",
    "encode_stream_response",
    "parse_head",
]
