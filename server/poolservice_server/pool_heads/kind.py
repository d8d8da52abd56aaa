"""What a kind of pool head is: its tensors, the samples that it takes, and what it costs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from poolservice_server.backbones.manifest_tables import Table
from poolservice_server.pool_heads.tensors import Shape, Tensors

# The steps of a multiplication and addition: of a matrix with a vector, which reads each weight once, and of two
# matrices; and of a pass over the values, such as an exponential.
VECTOR, MATRIX, PASS = 0.15, 0.04, 2.0


class Geometry(NamedTuple):
    """The samples that a head takes, and the cost of one of them.

    Attributes:
        channels: C.
        results: D, the number of values of its result.
        steps: the steps of a sample, see `stage_cost`.
        position_steps: the further steps of each position.
        position_floats: the number of floats in the intermediates for each position.
        spatial: the height and width that a sample must have; None if any will do.
        min_positions: the least number of positions.
        takes_vectors: whether it also takes vectors (C,).
    """

    channels: int
    results: int
    steps: float
    position_steps: float
    position_floats: float
    spatial: tuple[int, int] | None = None
    min_positions: int = 1
    takes_vectors: bool = False


class Kind(NamedTuple):
    """A kind of pool head.

    Attributes:
        parameters: the table [parameters] of `head.toml`.
        tensors: returns the tensors that a file must and may have, from the parameters.
        geometry: returns the geometry, from the parameters and the number that each letter of the shapes stands for. It
            raises WrongTensors if they do not suit each other.
    """

    parameters: type[Table]
    tensors: Callable[[Any], Tensors]
    geometry: Callable[[Any, Mapping[str, int]], Geometry]


def linear(name: str, out: str, taken: str, *further: int) -> dict[str, Shape]:
    """Return the weight and the bias of a linear layer, or of a convolution with a kernel of further sizes."""
    return {f"{name}.weight": (out, taken, *further), f"{name}.bias": (out,)}
