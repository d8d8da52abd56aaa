"""The environment that makes glibc use huge pages."""

import pytest

from poolservice_server.huge_pages import with_huge_pages


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": ""}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=3"}, "glibc.malloc.check=3:glibc.malloc.hugetlb=1"),
    ],
)
def test_the_tunable_is_added_to_the_others(before: dict[str, str], after: str) -> None:
    assert with_huge_pages({"HOME": "/", **before}) == {"HOME": "/", "GLIBC_TUNABLES": after}


@pytest.mark.parametrize("value", ["0", "1", "2"])
def test_a_tunable_that_an_operator_has_set_stays(value: str) -> None:
    assert with_huge_pages({"GLIBC_TUNABLES": f"glibc.malloc.hugetlb={value}"}) is None
