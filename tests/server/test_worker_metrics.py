"""One scrape shows all workers, whatever the workers do meanwhile."""

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from tests.scraping import Scrape, metrics_url, page, scrape

from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.testing import Service

StartServer = Callable[..., Service]
PoolSmall = Callable[[PoolServiceStub], float]

METRICS = ("--metrics-address", "127.0.0.1:0")

TIMEOUT_SECONDS = 60


def worker_processes(supervisor: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(supervisor).children() if "spawn_main" in " ".join(child.cmdline())]


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


def test_one_scrape_shows_the_calls_of_all_workers(start_server: StartServer, pool_small: PoolSmall) -> None:
    server = start_server("--workers", "2", *METRICS)
    for _ in range(10):
        with grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            pool_small(PoolServiceStub(channel))
    metrics = scrape(server)
    assert metrics.value("poolservice_calls_total", method="Pool", code="OK") == 10
    assert states(metrics) == [1, 1]
    assert len(re.findall("serving metrics", server.log())) == 1


def test_a_worker_that_was_killed_is_left_out_until_it_is_restarted(start_server: StartServer) -> None:
    server = start_server("--workers", "2", *METRICS)
    worker_processes(server.process.pid)[0].kill()
    metrics = scrape_until(server, lambda metrics: metrics.value("poolservice_worker_restarts_total") == 1)
    if states(metrics) == [0, 1]:
        up = metrics.value("poolservice_worker_up", worker="0") and "0" or "1"
        assert {one.labels["worker"] for one in metrics.families["poolservice_info"].samples} == {up}
    metrics = scrape_until(server, lambda metrics: states(metrics) == [1, 1])
    assert metrics.value("poolservice_worker_restarts_total") == 1


def test_a_worker_that_is_stuck_is_left_out_until_it_goes_on(start_server: StartServer) -> None:
    server = start_server("--workers", "2", *METRICS)
    with stopped(worker_processes(server.process.pid)[0]):
        for _ in range(3):
            metrics = scrape(server)
            assert states(metrics) == [0, 1]
            assert len(metrics.families["poolservice_info"].samples) == 1
    metrics = scrape_until(server, lambda metrics: states(metrics) == [1, 1])
    assert metrics.value("poolservice_worker_restarts_total") == 0


def test_scrapes_succeed_while_workers_are_killed_and_stopped_and_the_server_stops(start_server: StartServer) -> None:
    server = start_server("--workers", "2", *METRICS)
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
    for _ in range(3):
        first, *_ = worker_processes(server.process.pid)
        with stopped(first):
            for _ in range(8):
                assert scraped.acquire(timeout=TIMEOUT_SECONDS)
            first.kill()
        scrape_until(server, lambda metrics: states(metrics) == [1, 1])
    ended.set()
    for scraper in scrapers:
        scraper.join()
    assert failures == []
    assert server.stop() == 0


def test_the_supervisor_checks_the_tokens_of_scrapes_and_follows_their_file(
    start_server: StartServer, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first\n")
    server = start_server("--workers", "2", *METRICS, "--metrics-token-file", str(tokens))
    url = metrics_url(server)
    with pytest.raises(OSError, match="401"):
        page(url)
    assert 'files="metrics_tokens",outcome="loaded",worker="supervisor"} 0.0' in page(url, "first")
    tokens.write_text("second\n")
    server.process.send_signal(signal.SIGHUP)
    while True:
        try:
            text = page(url, "second")
            break
        except OSError:
            continue
    assert 'files="metrics_tokens",outcome="loaded",worker="supervisor"} 1.0' in text


def test_the_supervisor_never_imports_torch(start_server: StartServer) -> None:
    server = start_server("--workers", "2", *METRICS)
    scrape(server)
    libraries = {Path(one.path).name for one in psutil.Process(server.process.pid).memory_maps()}
    assert not [name for name in libraries if "torch" in name]


def test_the_plain_server_has_one_scrape_target_too(start_server: StartServer, pool_small: PoolSmall) -> None:
    server = start_server("--plain-server", *METRICS)
    with grpc.insecure_channel(server.address) as channel:
        pool_small(PoolServiceStub(channel))
    metrics = scrape(server)
    assert metrics.value("poolservice_calls_total", method="Pool", worker="0") == 1
    assert metrics.value("poolservice_worker_up", worker="0") == 1
