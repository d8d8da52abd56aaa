"""The reader of PromQL finds each metric with its matchers and labels, and refuses what it cannot read."""

import pytest
from tests.observe.promql import Selector, selectors


def test_a_metric_alone() -> None:
    assert selectors("up") == [Selector("up")]


def test_matchers_and_ranges() -> None:
    (found,) = selectors('rate(calls_total{code=~"A|B",job!="x, y"}[5m])')
    assert found == Selector("calls_total", [("code", "=~", "A|B"), ("job", "!=", "x, y")])
    assert found.labels() == {"code", "job"}
    assert found.values() == [("code", "A"), ("code", "B"), ("job", "x, y")]


def test_a_pattern_lists_no_values() -> None:
    assert selectors('up{instance=~".*"}')[0].values() == []


def test_the_labels_of_an_aggregation_belong_to_its_argument_only() -> None:
    first, second = selectors("histogram_quantile(0.9, sum by (le, stage) (rate(a_bucket[5m]))) > 0.5 and b == 0")
    assert (first.name, first.by) == ("a_bucket", {"le", "stage"})
    assert (second.name, second.by) == ("b", set())


def test_both_sides_of_an_operator() -> None:
    assert [one.name for one in selectors("sum(a or vector(0)) / sum(instance:b:rate5m) + 60 * c")] == [
        "a",
        "instance:b:rate5m",
        "c",
    ]


@pytest.mark.parametrize("expression", ["sum(a) by (b)", "a / on (b) c", "sum(a", "a $ b", "a offset 5m", "sum a by"])
def test_other_expressions_are_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"instead of|not read here|unexpected|before its argument"):
        print(selectors(expression))
