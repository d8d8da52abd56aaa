"""The random numbers of operators depend on the seed and the position alone."""

import numpy as np
import pytest
import torch

from poolservice_server.pooling.torch_operators.random_numbers import hashed, integers, uniform

POSITIONS = torch.arange(10_000)


def splitmix64(state: int, count: int) -> list[int]:
    """Return the first numbers of SplitMix64 as its authors write it, in unbounded integers."""
    word, numbers = 2**64, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % word
        mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % word
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % word
        numbers.append(mixed ^ (mixed >> 31))
    return numbers


def mix(word: int) -> int:
    return splitmix64((word - 0x9E3779B97F4A7C15) % 2**64, 1)[0]


def words(seed: int, count: int, stream: int = 0) -> list[int]:
    """Return the hashes of the first positions, as unsigned integers."""
    return splitmix64(mix((mix(seed) + stream * 0x9E3779B97F4A7C15) % 2**64), count)


def test_the_reference_gives_the_published_numbers() -> None:
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("stream", [0, 3])
def test_hashes_are_those_of_splitmix64(seed: int, stream: int) -> None:
    numbers = hashed(seed, torch.arange(50), stream).numpy().view(np.uint64)

    assert numbers.tolist() == words(seed, 50, stream)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.float64, 53)])
def test_uniform_numbers_are_the_upper_bits_of_the_hashes_and_integers_the_upper_63(
    dtype: torch.dtype, bits: int
) -> None:
    hashes = words(5, 2000, stream=2)

    fractions = uniform(5, torch.arange(2000), dtype, stream=2)

    assert fractions.tolist() == [(word >> 64 - bits) / 2**bits for word in hashes]
    assert integers(5, torch.arange(2000), 1000, stream=2).tolist() == [(word >> 1) % 1000 for word in hashes]


def test_a_number_depends_on_its_position_and_not_on_its_neighbours() -> None:
    alone = torch.cat([hashed(7, POSITIONS[number : number + 1]) for number in range(20)])

    assert torch.equal(hashed(7, POSITIONS.view(100, 100)).flatten()[:20], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_fill_the_interval_and_leave_out_1(dtype: torch.dtype) -> None:
    numbers = uniform(3, POSITIONS, dtype)

    shares = torch.histc(numbers, 10, 0, 1) / len(POSITIONS)

    assert numbers.dtype == dtype
    assert 0 <= numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    assert (shares - 0.1).abs().max() < 0.015
    assert abs(torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1]) < 0.04


def test_integers_take_each_value_equally_often() -> None:
    counts = torch.bincount(integers(5, POSITIONS, 7), minlength=7)

    assert len(counts) == 7
    assert (counts * 7 / len(POSITIONS) - 1).abs().max() < 0.1


def test_seeds_and_streams_give_other_numbers() -> None:
    given = [hashed(0, POSITIONS), hashed(1, POSITIONS), hashed(0, POSITIONS, stream=1)]

    assert len(torch.cat(given).unique()) == 3 * len(POSITIONS)
