"""The environment that a server gives to glibc's allocator."""

import pytest

from poolservice_server.glibc_tunables import with_one_arena

ARENA = "glibc.malloc.arena_max"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, f"{ARENA}=1"),
        ({"GLIBC_TUNABLES": ""}, f"{ARENA}=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=3"}, f"glibc.malloc.check=3:{ARENA}=1"),
    ],
)
def test_one_arena_is_added_to_the_tunables_of_the_environment(before: dict[str, str], after: str) -> None:
    environment = {"HOME": "/", **before}
    with_arena = with_one_arena(environment)
    assert with_arena == {**environment, "GLIBC_TUNABLES": after}
    assert with_one_arena(with_arena) is None


@pytest.mark.parametrize("before", [{"GLIBC_TUNABLES": f"{ARENA}=4"}, {"MALLOC_ARENA_MAX": "2"}])
def test_a_number_of_arenas_in_the_environment_stays(before: dict[str, str]) -> None:
    assert with_one_arena(before) is None
