"""Ids of calls: which metadata are accepted, whatever a caller sends."""

import pytest

from poolservice_server.core.call_ids import SpanId, read_call_ids

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_the_request_id_of_the_caller_is_kept() -> None:
    assert read_call_ids((("x-request-id", "job-7/a.b=c"),)).request_id == "job-7/a.b=c"


@pytest.mark.parametrize(
    "value",
    ["", " ", "two words", "line\nbreak", "tab\t", "\x1b[31m", "é", "\u202e", "x" * 129, "x" * 10_000, b"bytes"],
)
def test_a_wrong_request_id_is_replaced(value: str | bytes) -> None:
    found = read_call_ids((("x-request-id", value),)).request_id
    assert found != value
    assert found.isascii()
    assert found.isprintable()
    assert len(found) < 40


def test_new_request_ids_differ() -> None:
    assert len({read_call_ids(()).request_id for _ in range(1000)}) == 1000


def test_of_several_request_ids_the_first_valid_one_counts() -> None:
    pairs = (("x-request-id", "not valid"), ("x-request-id", "first"), ("x-request-id", "second"))
    assert read_call_ids(pairs).request_id == "first"


@pytest.mark.parametrize("parent", [PARENT, f"cc-{TRACE}-{SPAN}-01-later", f"00-{TRACE}-{SPAN}-03"])
def test_a_traceparent_is_read(parent: str) -> None:
    ids = read_call_ids((("traceparent", parent), ("tracestate", "vendor=1")))
    assert ids.parent == SpanId(TRACE, SPAN, is_sampled=True)
    assert ids.trace_state == "vendor=1"


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f" {PARENT}",
        f"{PARENT}\n",
    ],
)
def test_a_wrong_traceparent_is_ignored_with_what_goes_with_it(parent: str) -> None:
    ids = read_call_ids((("traceparent", parent), ("tracestate", "vendor=1"), ("x-trace-links", PARENT)))
    assert (ids.parent, ids.trace_state, ids.links) == (None, "", ())


def test_links_are_valid_distinct_and_limited_in_number() -> None:
    others = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 100)]
    ids = read_call_ids((("traceparent", PARENT), ("x-trace-links", ",".join(["wrong", others[0], *others]))))
    assert len(ids.links) < 20
    assert ids.links[:2] == (SpanId(f"{1:032x}", f"{1:016x}", True), SpanId(f"{2:032x}", f"{2:016x}", True))
