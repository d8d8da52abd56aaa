"""The load generator of `tune`: every kind of job is sent, and a call that fails is reported in the server's words."""

from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from poolservice_server.tune.job import make_job
from poolservice_server.tune.jobs_file import JobTable
from poolservice_server.tune.load import Load, LoadFailed

JOBS: dict[str, dict[str, Any]] = {
    "tensor": {"shape": (2, 4, 4), "specs": ("gap2d",)},
    "bytes": {"shape": (1, 8, 8), "dtype": "uint8", "specs": ("gmp2d",)},
    "coalesced": {"shape": (2, 4, 4), "specs": ("gap2d",), "requests_per_message": 4},
    "png": {"image": (33, 17), "format": "png", "specs": ("MaxPool2d((3, 2))",)},
    "photograph": {"image_file": "grace_hopper.jpg", "specs": ("gap2d",)},
    "flat": {"shape": (4,), "specs": ("gap2d",)},
    "flat, coalesced": {"shape": (4,), "specs": ("gap2d",), "requests_per_message": 2},
    "embed": {"image": (8, 8), "backbone": "missing"},
}


@pytest.fixture(scope="module")
def load(photograph: Path) -> Iterator[Load]:
    tables = [JobTable(name=name, concurrency=2, **values) for name, values in JOBS.items()]
    with Load([make_job(table, photograph.parent) for table in tables], cores=8) as load:
        yield load


@pytest.mark.parametrize("name", ["tensor", "bytes", "coalesced", "png", "photograph"])
def test_each_kind_of_job_is_measured(load: Load, server_address: str, name: str) -> None:
    measured = load.measure(server_address, list(JOBS).index(name), 0.01)
    assert measured.rate > 0
    assert 0 < measured.p50 <= measured.p99


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flat", "INVALID_ARGUMENT: tensor.shape"),
        ("flat, coalesced", "INVALID_ARGUMENT: tensor.shape"),
        ("embed", "INVALID_ARGUMENT: backbone: there is no backbone missing"),
    ],
)
def test_a_refused_call_is_reported_in_the_words_of_the_server(
    load: Load, server_address: str, name: str, words: str
) -> None:
    with pytest.raises(LoadFailed) as caught:
        load.measure(server_address, list(JOBS).index(name), 0.01)
    assert str(caught.value).startswith(words)
    # The next round is not affected.
    assert load.measure(server_address, 0, 0.01).rate > 0


def test_a_process_that_was_killed_fails_the_measurement() -> None:
    others = active_children()
    table = JobTable(name="tensor", **JOBS["tensor"])
    with Load([make_job(table, Path())], cores=1) as load:
        (process,) = (child for child in active_children() if child not in others)
        process.kill()
        process.join()
        for _ in range(2):
            with pytest.raises(LoadFailed, match="a process that generates the load has ended"):
                load.measure("127.0.0.1:1", 0, 0.01)
