"""The few messages that carry tensors' bytes, written and read without copying those bytes more than once.

The wire format is protobuf's own. What is written equals what protobuf would write, byte for byte. What is read
fast is the layout that protobuf writes; any other is left to the generated classes, so that whatever is valid is
read, and as they read it.
"""

from poolservice.codec.envelopes import (
    MAX_BATCH_ITEMS,
    decode_batch_request,
    decode_batch_response,
    decode_stream_request,
    decode_stream_response,
    encode_batch_request,
    encode_batch_response,
    encode_stream_request,
    encode_stream_response,
)
from poolservice.codec.requests import MAX_HEAD_BYTES, Request, RequestEncoder, decode_request, parse_head
from poolservice.codec.responses import (
    MalformedMessage,
    Response,
    Result,
    Value,
    decode_response,
    encode_response,
)
from poolservice.codec.wire import MAX_MESSAGE_BYTES, Buffer

__all__ = [
    "MAX_BATCH_ITEMS",
    "MAX_HEAD_BYTES",
    "MAX_MESSAGE_BYTES",
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
