"""A web service that returns the features of a posted image: an ASGI application without a framework.

    uvicorn asgi_service:app
    curl --data-binary @photo.jpg http://localhost:8000/

    python asgi_service.py photo.jpg      # prints the response without a web server

Needs a running pooling server (`poolservice-server`); uvicorn or another ASGI server comes from its own package.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from poolservice_client import AsyncPoolClient, DeadlineExceeded, GlobalAvgPool2d, InvalidRequest, Overloaded, PoolError

Message = dict[str, Any]


async def describe(client: AsyncPoolClient, image: bytes) -> tuple[int, Message]:
    """Return the HTTP status and the JSON body for a posted image."""
    try:
        vector = await client.pool(image, GlobalAvgPool2d(), output="features", normalize=True, timeout=2)
    except InvalidRequest as error:
        return 400, {"error": error.reason}
    except Overloaded as error:
        return 503, {"error": "the service is overloaded", "retry_after": error.retry_after}
    except DeadlineExceeded:
        return 504, {"error": "the service did not respond in time"}
    except PoolError as error:
        return 502, {"error": str(error)}
    return 200, {"features": vector.tolist()}


class App:
    """The ASGI application. One client serves all requests: calls that are made at the same time are coalesced."""

    client: AsyncPoolClient

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Handle the application's lifespan, or one HTTP request."""
        if scope["type"] == "lifespan":
            await receive()
            async with AsyncPoolClient() as self.client:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more_body = b"", True
        while more_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more_body = message.get("more_body", False)
        status, content = await describe(self.client, body)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})


app = App()


async def main(image: bytes) -> None:
    """Print the response for one image."""
    async with AsyncPoolClient() as client:
        status, content = await describe(client, image)
    print(status, json.dumps(content))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "photo.jpg").read_bytes()))
