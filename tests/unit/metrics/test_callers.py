"""Callers get series of their own only if they have names, and only a hundred of them."""

from prometheus_client import CollectorRegistry

from poolservice_server.metrics.callers import MAX_NAMES, CallerMetrics


def collected(callers: CallerMetrics) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(callers)
    return registry


def test_addresses_are_counted_together_as_anonymous() -> None:
    callers = CallerMetrics()
    for port in range(1000):
        callers.count(f"ipv4:127.0.0.1:{port}", "OK", 0.5)
    registry = collected(callers)
    labels = {"caller": "anonymous", "code": "OK"}
    assert registry.get_sample_value("poolservice_caller_requests_total", labels) == 1000
    assert registry.get_sample_value("poolservice_caller_compute_seconds_total", {"caller": "anonymous"}) == 500


def test_names_beyond_the_first_hundred_are_counted_together_as_other() -> None:
    callers = CallerMetrics()
    for number in range(MAX_NAMES + 50):
        callers.count(f"certificate:{number}", "OK", 1.0)
    callers.count("certificate:0", "INTERNAL", 1.0)
    (requests, seconds) = callers.collect()
    assert len({sample.labels["caller"] for sample in requests.samples}) == MAX_NAMES + 1
    values = {sample.labels["caller"]: sample.value for sample in seconds.samples}
    assert values["other"] == 50
    assert values["certificate:0"] == 2


def test_a_caller_without_requests_has_no_series() -> None:
    assert [family.samples for family in CallerMetrics().collect()] == [[], []]
