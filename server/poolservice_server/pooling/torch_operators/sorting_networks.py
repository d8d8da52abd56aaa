"""Sorting networks: fixed sequences of comparisons that sort few values, whole tensors of them at a time."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from poolservice_server.cache import cached


class Comparison(NamedTuple):
    """One step of a network: the smaller of two values goes to place `low`, the larger to place `high`.

    Attributes:
        low: a place.
        high: another place.
        keeps_low: True if a later step or the result needs the smaller value.
        keeps_high: True if they need the larger one.
    """

    low: int
    high: int
    keeps_low: bool
    keeps_high: bool


def values_of_ranks(values: Sequence[torch.Tensor], ranks: frozenset[int]) -> list[torch.Tensor]:
    """Sort the values elementwise, as far as some ranks need it.

    Args:
        values: tensors of one shape. A NaN among the values at a position makes all of its results NaN.
        ranks: the places of the result that are needed, from 0 for the smallest value.

    Returns:
        As many tensors as there are values; only those of the ranks are sorted.
    """
    places = list(values)
    for low, high, keeps_low, keeps_high in network(len(places), ranks):
        left, right = places[low], places[high]
        if keeps_low:
            places[low] = torch.minimum(left, right)
        if keeps_high:
            places[high] = torch.maximum(left, right)
    return places


@cached("sorting_networks")
def network(size: int, ranks: frozenset[int]) -> tuple[Comparison, ...]:
    """Return the comparisons that bring the values of some ranks to their places.

    Source:
        Batcher, "Sorting networks and their applications", 1968; Knuth, "The Art of Computer Programming", volume 3,
        algorithm 5.2.2M. Comparisons on which no needed rank depends are left out.
    """
    needed = set(ranks)
    kept: list[Comparison] = []
    for low, high in reversed(list(_merge_exchange(size))):
        if low in needed or high in needed:
            kept.append(Comparison(low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept))


def _merge_exchange(size: int) -> Iterator[tuple[int, int]]:
    top = 1 << max(0, (size - 1).bit_length() - 1)
    step = top
    while step:
        distance, offset, half = step, 0, top
        while True:
            yield from ((low, low + distance) for low in range(size - distance) if low & step == offset)
            if half == step:
                break
            distance, offset, half = half - step, step, half // 2
        step //= 2
