"""The tensors of a head's file, compared with the shapes that its kind requires."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from poolservice_server.backbones.linear import WrongTensors, read_tensors
from poolservice_server.foreign_text import quote

#: A shape: each size is a number, or a letter that stands for the same number in all tensors, such as ("3C", "C").
Shape = tuple[int | str, ...]

_SIZE = re.compile(r"(\d*)([A-Z])")
_MOST_LISTED = 10


class Tensors(NamedTuple):
    """The tensors that a kind of head has.

    Attributes:
        needed: the shape of each tensor that a file must have. A letter occurs by itself before it has a factor.
        optional: the shape of each tensor that a file may have.
    """

    needed: Mapping[str, Shape]
    optional: Mapping[str, Shape]


def read_weights(content: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file as float32.

    Raises:
        WrongTensors: the file is damaged, or one of its values is not finite as float32.
    """
    weights: dict[str, np.ndarray] = {}
    for name, tensor in read_tensors(content).items():
        with np.errstate(over="ignore"):
            weights[name] = np.array(tensor, np.float32, order="C")
        if not np.isfinite(weights[name]).all():
            raise WrongTensors(f"has values that are too large for float32 in {quote(name)}")
    return weights


def match_shapes(shapes: Mapping[str, tuple[int, ...]], tensors: Tensors) -> dict[str, int]:
    """Return the number that each letter of the shapes stands for.

    Args:
        shapes: the shape of each tensor in the file.
        tensors: the tensors that the file must and may have.

    Raises:
        WrongTensors: a tensor is missing, unknown or of another shape.
    """
    missing = tensors.needed.keys() - shapes.keys()
    if missing:
        raise WrongTensors(f"must have the tensors {', '.join(tensors.needed)}; it lacks {_listed(missing)}")
    unknown = shapes.keys() - tensors.needed.keys() - tensors.optional.keys()
    if unknown:
        raise WrongTensors(f"has the tensors {_listed(unknown)}, which this kind of head has not")
    sizes: dict[str, int] = {}
    for name, expected in {**tensors.needed, **tensors.optional}.items():
        if name in shapes:
            _match(name, shapes[name], expected, sizes)
    return sizes


def _match(name: str, shape: tuple[int, ...], expected: Shape, sizes: dict[str, int]) -> None:
    fits = len(shape) == len(expected)
    for size, wanted in zip(shape, expected, strict=False):
        if isinstance(wanted, int):
            fits &= size == wanted
        elif matched := _SIZE.fullmatch(wanted):
            factor, letter = int(matched[1] or 1), matched[2]
            known = sizes.setdefault(letter, size) if factor == 1 and size else sizes.get(letter, 0)
            fits &= known > 0 and size == factor * known
    if not fits:
        letters = {part[-1] for part in expected if isinstance(part, str)}
        known_sizes = ", ".join(f"{letter} = {sizes[letter]}" for letter in sorted(letters) if letter in sizes)
        raise WrongTensors(
            f"must have {name} of shape ({', '.join(map(str, expected))})"
            f"{f' with {known_sizes}' if known_sizes else ''}; its shape is {shape}"
        )


def _listed(names: set[str]) -> str:
    return quote(", ".join(sorted(names)[:_MOST_LISTED]))
