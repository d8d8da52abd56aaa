"""What the tensors of a network can serve as, by their shapes."""

from typing import Literal, NamedTuple

Kind = Literal["map", "tokens", "vector"]
Layout = Literal["NCHW", "NHWC"]

# Networks have no, one or two class tokens, and up to four registers.
_MAX_PREFIX_TOKENS = 6
# Convolutions without padding cut the edges of a feature map: at most this many rows or columns, or this part of them.
_CUT_EDGE = 2
_CUT_PART = 0.25


class TensorUse(NamedTuple):
    """What a tensor can serve as.

    Attributes:
        kind: a feature map, a token grid or a vector.
        shape: the shape for one sample, as in the network.
        layout: of a feature map.
        prefix_tokens: the number of tokens before those of the grid.
        grid: the rows and columns of a token grid.
    """

    kind: Kind
    shape: tuple[int, ...]
    layout: Layout = "NCHW"
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = None


def use_of(shape: tuple[int, ...], image: tuple[int, int]) -> TensorUse | None:
    """Return what a tensor can serve as, or None.

    Args:
        shape: the shape for one sample.
        image: the height and width of the network's input.
    """
    if len(shape) == 3 and all(shape):
        if _covers(shape[1:], image):
            return TensorUse("map", shape)
        if _covers(shape[:2], image):
            return TensorUse("map", shape, layout="NHWC")
    if len(shape) == 2 and all(shape):
        return _token_grid(shape, image)
    if len(shape) == 1 and shape[0] > 1:
        return TensorUse("vector", shape)
    return None


def _covers(sides: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Return True if positions with these sides lie on the image at the same distance in both directions."""
    if sides == (1, 1):
        return False
    return any(
        stride >= 1 and all(_is_at(side, pixels, stride) for side, pixels in zip(sides, image, strict=True))
        for stride in {round(pixels / side) for side, pixels in zip(sides, image, strict=True)}
    )


def _is_at(side: int, pixels: int, stride: int) -> bool:
    return abs(pixels / stride - side) <= min(_CUT_EDGE, _CUT_PART * side)


def _token_grid(shape: tuple[int, ...], image: tuple[int, int]) -> TensorUse | None:
    tokens = shape[0]
    # The largest number of patches that leaves few enough prefix tokens is the only one with this many tokens.
    for stride in range(1, min(image) + 1):
        grid = (image[0] // stride, image[1] // stride)
        prefix_tokens = tokens - grid[0] * grid[1]
        if 0 <= prefix_tokens <= _MAX_PREFIX_TOKENS and grid != (1, 1):
            return TensorUse("tokens", shape, prefix_tokens=prefix_tokens, grid=grid)
    return None
