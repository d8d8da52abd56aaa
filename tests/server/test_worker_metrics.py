"""One scrape shows all workers, whatever the workers do meanwhile."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from tests.scraping import Scrape, metrics_url, page, scrape
from tests.server.server_log import wait_for_log

from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.testing import Service, serve

PoolSmall = Callable[[PoolServiceStub], float]

TIMEOUT_SECONDS = 60


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    """Return a server with two workers, which the tests leave as they find it."""
    with serve("--device", "cpu", "--workers", "2", "--metrics-address", "127.0.0.1:0") as server:
        yield server


def workers(server: Service) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def states(metrics: Scrape) -> list[float]:
    """Return the states of two workers, sorted."""
    return sorted(metrics.value("poolservice_worker_up", worker=str(number)) for number in range(2))


def scrape_until(server: Service, condition: Callable[[Scrape], bool]) -> Scrape:
    """Scrape until a condition holds; the test's own timeout ends an endless wait."""
    while not condition(metrics := scrape(server)):
        pass
    return metrics


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def test_one_scrape_shows_the_calls_of_all_workers(server: Service, pool_small: PoolSmall) -> None:
    for _ in range(10):
        with grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            pool_small(PoolServiceStub(channel))
    metrics = scrape(server)
    assert metrics.value("poolservice_calls_total", method="Pool", code="OK") == 10
    assert states(metrics) == [1, 1]
    assert server.log().count("serving metrics") == 1


def test_the_supervisor_never_imports_torch(server: Service) -> None:
    scrape(server)
    libraries = {Path(one.path).name for one in psutil.Process(server.process.pid).memory_maps()}
    assert not [name for name in libraries if "torch" in name]


def test_a_worker_that_is_stuck_is_left_out_until_it_goes_on(server: Service) -> None:
    with stopped(workers(server)[0]):
        for _ in range(3):
            metrics = scrape(server)
            assert states(metrics) == [0, 1]
            assert len(metrics.families["poolservice_info"].samples) == 1
    scrape_until(server, lambda metrics: states(metrics) == [1, 1])


def test_a_worker_that_is_killed_is_left_out_until_it_serves_again(server: Service) -> None:
    served = server.log().count("a worker is serving")
    restarts = scrape(server).value("poolservice_worker_restarts_total")
    workers(server)[0].kill()
    metrics = scrape_until(server, lambda metrics: states(metrics) == [0, 1])
    assert len(metrics.families["poolservice_info"].samples) == 1
    while server.log().count("a worker is serving") == served:
        assert server.process.poll() is None
    metrics = scrape_until(server, lambda metrics: states(metrics) == [1, 1])
    assert metrics.value("poolservice_worker_restarts_total") == restarts + 1


@pytest.mark.long
def test_scrapes_succeed_while_workers_are_stopped_and_killed(server: Service) -> None:
    url = metrics_url(server)
    failures: list[str] = []
    scraped = threading.Semaphore(0)
    ended = threading.Event()

    def scrape_repeatedly() -> None:
        while not ended.is_set():
            try:
                assert "poolservice_worker_up" in page(url)
            except Exception as error:  # noqa: BLE001 - every failure is one
                failures.append(repr(error))
            scraped.release()

    scrapers = [threading.Thread(target=scrape_repeatedly) for _ in range(4)]
    for scraper in scrapers:
        scraper.start()
    for _ in range(5):
        first, *_ = workers(server)
        with stopped(first):
            for _ in range(8):
                assert scraped.acquire(timeout=TIMEOUT_SECONDS)
            first.kill()
        scrape_until(server, lambda metrics: states(metrics) == [1, 1])
    ended.set()
    for scraper in scrapers:
        scraper.join()
    assert failures == []


def test_the_supervisor_of_the_plain_server_serves_the_metrics_and_follows_their_tokens(
    start_server: Callable[..., Service], tmp_path: Path, pool_small: PoolSmall
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first\n")
    server = start_server("--plain-server", "--metrics-address", "127.0.0.1:0", "--metrics-token-file", str(tokens))
    with grpc.insecure_channel(server.address) as channel:
        pool_small(PoolServiceStub(channel))
    url = metrics_url(server)
    with pytest.raises(OSError, match="401"):
        page(url)
    text = page(url, "first")
    assert 'poolservice_calls_total{code="OK",method="Pool",worker="0"} 1.0' in text
    assert 'poolservice_file_reloads_total{files="metrics_tokens",outcome="loaded",worker="supervisor"} 0.0' in text
    tokens.write_text("second\n")
    server.process.send_signal(signal.SIGHUP)
    wait_for_log(server, "read the files again")
    with pytest.raises(OSError, match="401"):
        page(url, "first")
    text = page(url, "second")
    assert 'poolservice_file_reloads_total{files="metrics_tokens",outcome="loaded",worker="supervisor"} 1.0' in text
