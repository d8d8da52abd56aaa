"""The end of a failed call, in this server and in Ray Serve's proxy, which must not import torch."""

import asyncio
from typing import Any

import grpc
import grpc.aio
from google.rpc import status_pb2

from poolservice_server.core.call_ids import REQUEST_ID_KEY

#: The trailing metadata key of a failed call's google.rpc.Status, by gRPC's convention.
STATUS_DETAILS_KEY = "grpc-status-details-bin"

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


async def abort(context: grpc.aio.ServicerContext[Any, Any], status: status_pb2.Status, request_id: str) -> Any:
    """End a call with `status`, its details and the call's id; never returns."""
    details = ((STATUS_DETAILS_KEY, status.SerializeToString()), (REQUEST_ID_KEY, request_id))
    try:
        await context.abort(_STATUS_CODES[status.code], status.message, details)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError:
        # The caller has left, for example because its deadline has passed.
        raise asyncio.CancelledError from None
