"""Random numbers that depend on a seed and a position alone, and are the same on every device.

They are not drawn one after the other from a state, but hashed: SplitMix64's number for each position. So the numbers
of a sample depend neither on its batch nor on the number of threads. All arithmetic is that of 64-bit integers, which
every device computes alike: sums and products wrap around modulo 2^64. torch has no unsigned type with these
operations, so the numbers are stored as int64 in two's complement, and a right shift masks the copies of the sign bit.
The numbers are not fit for cryptography.

Source:
    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014 (SplitMix64).
"""

import torch

# The increment and the multipliers of SplitMix64, and the shifts of its mixing function.
_INCREMENT = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_WORD = 2**64

# The number of bits that a float of each dtype holds exactly.
_BITS = {torch.float32: 24, torch.float64: 53}


def hashed(seed: int, positions: torch.Tensor, stream: int = 0) -> torch.Tensor:
    """Return a random int64, of all 64 bits, for each position.

    It is the number that SplitMix64 gives at a position, counted from 0, if its state starts at a hash of the seed and
    the stream.

    Args:
        seed: any integer; integers that are equal modulo 2^64 give the same numbers.
        positions: int64 of any shape.
        stream: an integer from 0. Streams of a seed are independent of each other.

    Shape:
        That of `positions`.
    """
    start = _mixed((_mixed(seed % _WORD) + stream * _INCREMENT) % _WORD)
    state = (positions + 1) * _signed(_INCREMENT) + _signed(start)
    for shift, multiplier in _ROUNDS:
        state = (state ^ _shifted(state, shift)) * _signed(multiplier)
    return state ^ _shifted(state, _LAST_SHIFT)


def uniform(seed: int, positions: torch.Tensor, dtype: torch.dtype, stream: int = 0) -> torch.Tensor:
    """Return a random float in [0, 1) for each position: the upper 24 or 53 bits of its hash, as a binary fraction.

    Args:
        seed: see `hashed`.
        positions: int64 of any shape.
        dtype: float32 or float64. Both hold the number exactly, so it is never rounded up to 1.
        stream: see `hashed`.

    Shape:
        That of `positions`.
    """
    bits = _BITS[dtype]
    return _shifted(hashed(seed, positions, stream), 64 - bits).to(dtype) * 2.0**-bits


def integers(seed: int, positions: torch.Tensor, bound: int, stream: int = 0) -> torch.Tensor:
    """Return a random integer from 0 to `bound` - 1 for each position, as int64.

    It is the remainder of 63 bits of the hash, so the probabilities differ from each other by a share of at most
    `bound` / 2^63.

    Args:
        seed: see `hashed`.
        positions: int64 of any shape.
        bound: at least 1.
        stream: see `hashed`.

    Shape:
        That of `positions`.
    """
    return _shifted(hashed(seed, positions, stream), 1) % bound


def _shifted(values: torch.Tensor, count: int) -> torch.Tensor:
    """Shift unsigned numbers to the right; torch's shift fills in the sign bit."""
    return torch.bitwise_and(values >> count, 2 ** (64 - count) - 1)


def _signed(word: int) -> int:
    """Return the int64 with the bits of an unsigned number."""
    return word - _WORD if word >= _WORD // 2 else word


def _mixed(word: int) -> int:
    """Return SplitMix64's mix of an unsigned number, as `hashed` computes it for tensors."""
    for shift, multiplier in _ROUNDS:
        word = (word ^ word >> shift) * multiplier % _WORD
    return word ^ word >> _LAST_SHIFT
