"""The HTTP server of the metrics: what it answers, and that strangers cannot exhaust it."""

import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psutil
import pytest
from prometheus_client import CollectorRegistry, Gauge
from tests.scraping import metrics_url, scrape

from poolservice_server.metrics import server as metrics_server
from poolservice_server.metrics.families import Families
from poolservice_server.settings import Tokens
from poolservice_server.testing import Service

StartServer = Callable[..., Service]

TIMEOUT_SECONDS = 60


@pytest.fixture
def url() -> Iterator[str]:
    """Serve one gauge with the value 7, and return the URL."""
    registry = CollectorRegistry()
    Gauge("tested", "A gauge.", registry=registry).set(7)

    async def collect() -> Families:
        return Families(registry.collect())

    with metrics_server.serve(collect, "127.0.0.1:0", Tokens) as url:
        yield url


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as page:
        assert page.headers["Content-Type"].startswith("text/plain")
        text: str = page.read().decode()
        return text


def connect(url: str) -> socket.socket:
    port = int(re.findall(r"\d+", url)[-1])
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)


def send(url: str, request: bytes) -> bytes:
    """Return everything that the server answers until it closes the connection."""
    with connect(url) as connection:
        connection.sendall(request)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
        return received


def test_a_scrape_shows_the_values(url: str) -> None:
    assert "tested 7.0" in get(url)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /metrics HTTP/1.1", b"200 OK"),
        (b"GET /metrics?name=x HTTP/1.0", b"200 OK"),
        (b"GET /other HTTP/1.1", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1", b"405 Method Not Allowed"),
        (b"DELETE /metrics HTTP/1.1", b"405 Method Not Allowed"),
        (b"\xff\xfe", b"405 Method Not Allowed"),
    ],
)
def test_only_get_of_the_metrics_is_answered(url: str, request_line: bytes, status: bytes) -> None:
    assert send(url, request_line + b"\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 " + status)


def test_an_endless_request_is_cut_off(url: str) -> None:
    assert send(url, b"GET /metrics HTTP/1.1\r\n" + b"x: " + b"y" * 100_000) == b""
    assert "tested 7.0" in get(url)


def test_many_idle_connections_do_not_block_scrapes(url: str) -> None:
    threads = threading.active_count()
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(url)) for _ in range(400)]
        assert "tested 7.0" in get(url)
        assert threading.active_count() == threads
        # The server has closed the oldest ones.
        assert idle[0].recv(1) == b""


def test_many_scrapes_at_once_are_all_answered(url: str) -> None:
    pages: list[str] = []
    scrapers = [threading.Thread(target=lambda: pages.append(get(url))) for _ in range(20)]
    for scraper in scrapers:
        scraper.start()
    for scraper in scrapers:
        scraper.join()
    assert ["tested 7.0" in page for page in pages] == [True] * 20


def test_the_server_shows_its_memory_and_its_caches(start_server: StartServer) -> None:
    server = start_server("--metrics-address", "127.0.0.1:0")
    metrics = scrape(server)
    assert metrics.value("process_resident_memory_bytes") > 2**20
    assert metrics.value("poolservice_cache_bytes") >= 0
    for name in ("stopped_work_total", "admitted_seconds", "unsent_bytes"):
        assert metrics.value(f"poolservice_{name}") == 0
    url = metrics_url(server)
    threads = psutil.Process(server.process.pid).num_threads()
    with ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(connect(url))
        get(url)
        assert psutil.Process(server.process.pid).num_threads() <= threads
