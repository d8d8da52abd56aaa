"""The metrics of running servers: the table in METRICS.md has exactly those, and they count calls of every kind."""

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
import torch
from PIL import Image
from tests.backbones.models import tiny_backbone
from tests.scraping import Scrape, scrape

from poolservice import __version__
from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.metrics.admission import REFUSAL_REASONS
from poolservice_server.testing import Service, serve

TABLE = Path(__file__).parents[2] / "server" / "METRICS.md"

MEAN = pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())

# Labels that every series of a kind has.
COMMON_LABELS = {"worker", "le"}

# Families without series on the CPU.
EMPTY_ON_A_CPU = {"poolservice_device_memory_bytes"}


class Row(NamedTuple):
    """The type and the labels of a metric."""

    kind: str
    labels: frozenset[str]


def documented() -> dict[str, Row]:
    rows = {}
    for line in TABLE.read_text().splitlines():
        if found := re.match(r"\| `(poolservice_\w+|process_\w+)` \| (\w+) \| ([^|]*)\|", line):
            rows[found[1]] = Row(found[2], frozenset(re.findall(r"`(\w+)`", found[3])))
    return rows


def exported(metrics: Scrape) -> dict[str, Row]:
    rows = {}
    for family in metrics.families.values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {frozenset(sample.labels) - COMMON_LABELS for sample in family.samples}
        if not labels:
            assert name in EMPTY_ON_A_CPU
            labels = {documented()[name].labels}
        assert len(labels) == 1, f"{name} has series with different labels: {labels}"
        assert all("worker" in sample.labels for sample in family.samples)
        rows[name] = Row(family.type, labels.pop())
    return rows


def image() -> pb.Image:
    file = BytesIO()
    Image.new("RGB", (50, 40), (200, 100, 50)).save(file, "PNG")
    return pb.Image(data=file.getvalue())


def use_everything(server: Service, token: str) -> None:
    """Make calls of every method and kind of payload, and some that fail."""
    metadata = (("authorization", f"Bearer {token}"),)
    tensor = pb.PoolRequest(specs=[MEAN], tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 1, 2], data=b"\x01\x03"))
    decoded = pb.PoolRequest(specs=[MEAN], image=image(), output=pb.OutputOptions(format=pb.OUTPUT_FORMAT_TENSOR))
    network = pb.PoolRequest(specs=[MEAN], image=image(), backbone="tiny")
    requests = [tensor, decoded, network]
    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=metadata)
        for request in requests:
            stub.Pool(request, metadata=metadata)
        stub.PoolBatch(pb.PoolBatchRequest(requests=requests), metadata=metadata)
        list(stub.PoolStream(iter(pb.PoolStreamRequest(request=one) for one in requests), metadata=metadata))
        with pytest.raises(grpc.RpcError):
            stub.Pool(pb.PoolRequest(), metadata=metadata)
        with pytest.raises(grpc.RpcError):
            stub.Pool(tensor)


@contextmanager
def used_server(folder: Path, *flags: str) -> Iterator[Service]:
    """Return a server that was used in every way."""
    tokens = folder / "tokens"
    tokens.write_text("secret alice\n")
    tiny = tiny_backbone(folder / "tiny")
    with serve(
        *("--device", "cpu", "--metrics-address", "127.0.0.1:0", "--auth-token-file", str(tokens)),
        *("--backbone", str(tiny.path), *flags),
    ) as server:
        use_everything(server, "secret")
        yield server


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scrape]:
    """Return the metrics of one process that was used in every way."""
    with used_server(tmp_path_factory.mktemp("server")) as server:
        yield scrape(server)


def test_the_table_has_the_names_types_and_labels_of_one_process(metrics: Scrape) -> None:
    assert exported(metrics) == documented()


def test_the_table_has_the_names_types_and_labels_of_two_workers(tmp_path: Path) -> None:
    with used_server(tmp_path, "--workers", "2") as server:
        assert exported(scrape(server)) == documented()


def test_the_table_has_all_reasons_of_refusals() -> None:
    section = TABLE.read_text().partition("## Reasons of refusals")[2].partition("\n## ")[0]
    rows = [line.partition(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    assert [reason for row in rows for reason in re.findall(r"`(\w+)`", row)] == list(REFUSAL_REASONS)


def test_requests_of_calls_batches_and_streams_count_with_their_stages_and_bytes(metrics: Scrape) -> None:
    for method, code, number in (
        ("Pool", "OK", 3),
        ("Pool", "INVALID_ARGUMENT", 1),
        ("Pool", "UNAUTHENTICATED", 1),
        ("PoolBatch", "OK", 1),
        ("PoolStream", "OK", 1),
    ):
        assert metrics.value("poolservice_calls_total", method=method, code=code) == number
    # A tensor, an image and an image for the backbone, each of them three times.
    assert metrics.value("poolservice_request_duration_seconds_count") == 9
    stages = {"decode": 6, "preprocess": 3, "queue": 9, "compute": 9, "encode": 9}
    for stage, number in stages.items():
        assert metrics.value("poolservice_request_stage_duration_seconds_count", stage=stage) == number
    assert metrics.value("poolservice_caller_requests_total", caller="token:alice", code="OK") == 9
    assert metrics.value("poolservice_caller_requests_total", caller="token:alice", code="INVALID_ARGUMENT") == 1
    assert metrics.value("poolservice_device_requests_total", device="cpu") == 9
    assert metrics.value("poolservice_batch_size_sum", device="cpu") == 9
    assert metrics.value("poolservice_backbone_run_duration_seconds_count", backbone="tiny") == 3
    assert metrics.value("poolservice_calls_in_progress") == 0
    for name in ("received", "sent"):
        of_calls, of_batch, of_stream = (
            metrics.value(f"poolservice_{name}_bytes_total", method=method)
            for method in ("Pool", "PoolBatch", "PoolStream")
        )
        # The same requests and responses, and some bytes around each of them.
        assert of_calls < of_batch < of_calls + 64
        assert of_calls < of_stream < of_calls + 64


def test_the_info_names_the_versions_and_the_device(metrics: Scrape) -> None:
    labels = {"version": __version__, "torch": torch.__version__, "python": platform.python_version(), "device": "cpu"}
    assert metrics.value("poolservice_info", **labels) == 1
