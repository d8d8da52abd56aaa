"""The environment that a server gives to glibc's allocator."""

import pytest

from poolservice_server.glibc_tunables import with_tunables

ARENA, PAGES = "glibc.malloc.arena_max", "glibc.malloc.hugetlb"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, f"{ARENA}=1:{PAGES}=1"),
        ({"GLIBC_TUNABLES": ""}, f"{ARENA}=1:{PAGES}=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=3"}, f"glibc.malloc.check=3:{ARENA}=1:{PAGES}=1"),
        ({"GLIBC_TUNABLES": f"{PAGES}=0"}, f"{PAGES}=0:{ARENA}=1"),
        ({"GLIBC_TUNABLES": f"{ARENA}=4"}, f"{ARENA}=4:{PAGES}=1"),
        ({"MALLOC_ARENA_MAX": "2"}, f"{PAGES}=1"),
    ],
)
def test_missing_tunables_are_added_to_those_of_the_operator(before: dict[str, str], after: str) -> None:
    environment = {"HOME": "/", **before}
    with_added = with_tunables(environment, huge_pages=True)
    assert with_added == {**environment, "GLIBC_TUNABLES": after}
    assert with_tunables(with_added, huge_pages=True) is None


def test_a_glibc_without_huge_pages_gets_one_arena() -> None:
    assert with_tunables({}, huge_pages=False) == {"GLIBC_TUNABLES": f"{ARENA}=1"}


def test_an_environment_with_all_tunables_stays() -> None:
    assert with_tunables({"MALLOC_ARENA_MAX": "4"}, huge_pages=False) is None
