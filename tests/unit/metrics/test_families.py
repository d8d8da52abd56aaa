"""Metric families between processes: encoded, decoded, labelled and merged."""

import pytest
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest

from poolservice_server.histogram import SIZE_BOUNDS, Histogram
from poolservice_server.metrics.families import decode, encode, histogram_family, labelled, merged


def families(value: float) -> list[Metric]:
    sizes = Histogram(SIZE_BOUNDS)
    sizes.observe(value)
    calls = CounterMetricFamily("calls", "Calls.", labels=["name"])
    calls.add_metric(['a "quoted"\nname'], value)
    return [
        GaugeMetricFamily("tested", "A gauge.", value),
        calls,
        histogram_family("sizes", "Sizes.", ["device"], {("cpu",): sizes}),
    ]


def test_decoding_gives_what_was_encoded() -> None:
    assert generate_latest(decode(encode(families(3.0)))) == generate_latest(merged([families(3.0)]))


@pytest.mark.parametrize("data", [b"", b"{", b"7", b'[["x"]]', b'[["x", "", "gauge", "", [["x", 7, 1.0]]]]', b"\xff"])
def test_anything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(data)


def test_each_worker_has_series_of_its_own_in_one_family() -> None:
    page = generate_latest(merged([labelled(families(3.0), "0"), labelled(families(40.0), "1")])).decode()
    assert page.count("# TYPE tested gauge") == 1
    assert 'tested{worker="0"} 3.0\ntested{worker="1"} 40.0\n' in page
    assert 'sizes_bucket{device="cpu",le="4.0",worker="0"} 1.0' in page
    assert 'sizes_bucket{device="cpu",le="32.0",worker="1"} 0.0' in page
    assert 'sizes_sum{device="cpu",worker="1"} 40.0' in page


def test_a_value_on_a_bound_belongs_to_its_bucket_and_one_beyond_all_to_the_last() -> None:
    sizes = Histogram(SIZE_BOUNDS)
    for size in (1, 2, 3, 1024, 1025):
        sizes.observe(size)
    assert sizes.counts == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert sizes.total == 2055
