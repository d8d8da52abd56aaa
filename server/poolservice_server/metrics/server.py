"""The HTTP endpoint of the metrics: one thread with an event loop of its own, few connections, and short timeouts.

Untrusted clients may reach it. It reads at most a few kilobytes from a connection, closes the connection that has
waited longest if there are too many, and limits how often it renders the metrics.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

import structlog
from prometheus_client.exposition import choose_encoder

from poolservice_server.file_watch import FileWatch
from poolservice_server.metrics.families import Families
from poolservice_server.settings import Settings, SettingsError, Tokens, read_tokens

_log = structlog.get_logger(__name__)

_MAX_CONNECTIONS = 256
# The event loop accepts this many connections before it reads from them again. A scraper's request is therefore read
# long before newer connections could displace it.
_BACKLOG = 64
_MAX_REQUEST_BYTES = 8192
_REQUEST_SECONDS = 5.0
_RESPONSE_SECONDS = 10.0
# A page is rendered at most this often. Requests that arrive in between wait for the next one, which they share.
_RENDER_INTERVAL_SECONDS = 0.05

_PATHS = ("/metrics", "/")
_PLAIN = "text/plain; charset=utf-8"
_BEARER = "WWW-Authenticate: Bearer\r\n"

#: Returns the metrics as they are now. It is called on the event loop of the metrics' thread.
Collect = Callable[[], Awaitable[Families]]


@contextmanager
def serve_configured(
    settings: Settings,
    watch: FileWatch,
    collect: Collect,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Iterator[None]:
    """Serve metrics until the end of the block, if the settings name an address; see `serve`.

    Args:
        settings: the server's settings.
        watch: reads the token file again when it changes.
        collect: returns the metrics.
        loop_factory: as for `serve`.

    Raises:
        SettingsError: the address or the token file cannot be used.
    """
    tokens = Tokens()
    path = settings.metrics_token_file

    def load() -> None:
        nonlocal tokens
        if path is not None:
            tokens = read_tokens(path, "--metrics-token-file")

    if path is not None:
        watch.add("metrics_tokens", [path], load)
    if not settings.metrics_address:
        yield
        return
    with serve(collect, settings.metrics_address, lambda: tokens, loop_factory):
        yield


@contextmanager
def serve(
    collect: Collect,
    address: str,
    tokens: Callable[[], Tokens],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Iterator[str]:
    """Serve metrics until the end of the block; yield their URL.

    Args:
        collect: returns the metrics.
        address: HOST:PORT.
        tokens: returns the accepted bearer tokens. Without tokens, nobody needs one.
        loop_factory: returns the event loop that serves them on a thread; it is closed at the end of the block.

    Raises:
        SettingsError: the server cannot listen at the address.
    """
    host, _, port = address.rpartition(":")
    try:
        family, _, _, _, socket_address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(socket_address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(f"cannot serve metrics at {address} (--metrics-address): {error.strerror}") from None
    server = _MetricsServer(collect, tokens)
    with listening:
        # A daemon: a scrape must not keep a process alive that ends.
        run = partial(_run, asyncio.Runner(loop_factory=loop_factory), server.run(listening))
        thread = threading.Thread(target=run, name="metrics", daemon=True)
        thread.start()
        url = f"http://{host}:{listening.getsockname()[1]}/metrics"
        _log.info("serving metrics", url=url)
        try:
            yield url
        finally:
            server.stop()
            thread.join()


def _run(runner: asyncio.Runner, server: Coroutine[Any, Any, None]) -> None:
    with runner:
        runner.run(server)


class _MetricsServer:
    """Answers GET /metrics, one request per connection."""

    def __init__(self, collect: Collect, tokens: Callable[[], Tokens]) -> None:
        self._collect = collect
        self._tokens = tokens
        # The connections whose requests are incomplete, oldest first.
        self._waiting: dict[asyncio.Task[None], None] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._pages: dict[str, asyncio.Task[_Page]] = {}
        self._rendered = -_RENDER_INTERVAL_SECONDS
        self._started = threading.Event()

    async def run(self, listening: socket.socket) -> None:
        """Serve until `stop`."""
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._started.set()
        async with await asyncio.start_server(self._accept, sock=listening, limit=_MAX_REQUEST_BYTES, backlog=_BACKLOG):
            await self._stopped.wait()
            for task in self._connections:
                task.cancel()

    def stop(self) -> None:
        """End `run`; called on another thread."""
        self._started.wait()
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("asyncio handles each connection in a task")
        if len(self._connections) >= _MAX_CONNECTIONS and self._waiting:
            # Whoever sends a complete request is no longer among these.
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cancel()
        self._connections.add(task)
        self._waiting[task] = None
        try:
            await self._answer(reader, writer, task)
        finally:
            self._connections.discard(task)
            self._waiting.pop(task, None)
            writer.transport.abort() if task.cancelling() else writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: "asyncio.Task[None]"
    ) -> None:
        # A connection that sends no complete request in time, or that closes, gets no response.
        with suppress(TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            self._waiting.pop(task, None)
            async with asyncio.timeout(_RESPONSE_SECONDS):
                writer.write(await self._response(_Request(head)))
                await writer.drain()

    async def _response(self, request: "_Request") -> bytes:
        tokens = self._tokens()
        if tokens and tokens.owner(request.token) is None:
            return _response(HTTPStatus.UNAUTHORIZED, b"send the header Authorization: Bearer TOKEN\n", _PLAIN, _BEARER)
        if request.method != "GET":
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET is allowed\n", _PLAIN, "Allow: GET\r\n")
        if request.path not in _PATHS:
            return _response(HTTPStatus.NOT_FOUND, b"the metrics are at /metrics\n", _PLAIN)
        page = await self._page(request.accept)
        return _response(HTTPStatus.OK, page.content, page.content_type)

    async def _page(self, accept: str) -> "_Page":
        """Return a page that is rendered after this call, for all requests with the same format that wait for it."""
        encode, content_type = choose_encoder(accept)
        pending = self._pages.get(content_type)
        if pending is None:
            pending = self._pages[content_type] = self._loop.create_task(self._render(encode, content_type))
        # One caller that leaves must not cancel the page of the others.
        return await asyncio.shield(pending)

    async def _render(self, encode: Callable[[Families], bytes], content_type: str) -> "_Page":
        try:
            # Formats take turns: each render moves the time of the next one.
            start = max(self._loop.time(), self._rendered + _RENDER_INTERVAL_SECONDS)
            self._rendered = start
            await asyncio.sleep(start - self._loop.time())
        finally:
            del self._pages[content_type]
        return _Page(encode(await self._collect()), content_type)


class _Page(NamedTuple):
    content: bytes
    content_type: str


class _Request:
    """The parts of an HTTP request that matter here; whatever is malformed is empty."""

    def __init__(self, head: bytes) -> None:
        line, *headers = head.decode("latin-1").split("\r\n")
        self.method, _, rest = line.partition(" ")
        self.path = rest.partition(" ")[0].partition("?")[0]
        values = {name.lower(): value.strip() for name, _, value in (header.partition(":") for header in headers)}
        self.accept = values.get("accept", "")
        scheme, _, token = values.get("authorization", "").partition(" ")
        self.token = token.strip() if scheme.lower() == "bearer" else ""


def _response(status: HTTPStatus, content: bytes, content_type: str, header: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(content)}\r\n{header}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + content
