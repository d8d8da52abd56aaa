"""StochasticPool1d, 2d and 3d: the mean weighted by the values, or a value drawn in proportion to them."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.windows import WindowOrPlaneSpec


@dataclass(frozen=True, repr=False)
class _StochasticPool(WindowOrPlaneSpec[Values]):
    """Mean of each window weighted by its values, or a value drawn in proportion to the values (Zeiler et al., 2013).

    Each value a of the window W(i) at output position i has the probability p = a / sum of a over W(i). With
    "weighted", out(i) = sum of p * a over W(i), the paper's form for inference. With "sampled", out(i) is one of the
    values, drawn with these probabilities; the number that decides depends on `seed`, the channel and i alone, so the
    result is the same in every batch and on every device. The probabilities are rounded to multiples of 2^-32 of that
    of the largest value.

    The paper pools the output of a ReLU, so negative values count as 0. A window without a positive value gives 0. The
    values are divided by the largest one first.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: nothing overflows. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. inf gives inf, and -inf counts like any other low value. With
    "weighted", either can change the rounding of the sample's other results.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They do not
            count. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        mode: "weighted" or "sampled". Default: "weighted".
        seed: determines what is drawn, 0 to 2^63 - 1. Without effect on "weighted". Default: 0.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Zeiler and Fergus, "Stochastic Pooling for Regularization of Deep Convolutional Neural Networks", 2013.
    """

    operator: ClassVar[str] = "stochastic_pool"
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    mode: str = "weighted"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_choice("mode", ("weighted", "sampled"))
        self._set_seed()
        if self.mode == "sampled":
            # Each channel draws numbers of its own.
            self._set("takes_samples", True)


class StochasticPool1d(_StochasticPool):
    """Mean of each window weighted by its values, or a drawn value, over one dimension."""

    spatial_dims = 1


class StochasticPool2d(_StochasticPool):
    """Mean of each window weighted by its values, or a drawn value, over two dimensions."""

    spatial_dims = 2


class StochasticPool3d(_StochasticPool):
    """Mean of each window weighted by its values, or a drawn value, over three dimensions."""

    spatial_dims = 3
