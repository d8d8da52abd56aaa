"""The check of the iterable that `map` reads."""

from collections.abc import Iterable
from typing import Any

from poolservice.errors import InvalidRequest


def check_iterable(xs: Any) -> Iterable[Any]:
    """Return `xs` after checking that it is an iterable of inputs.

    Raises:
        InvalidRequest: `xs` is a single image, or not iterable.
    """
    if isinstance(xs, str | bytes | bytearray | memoryview) or not isinstance(xs, Iterable):
        raise InvalidRequest(
            f"map takes an iterable of tensors or images; got one {type(xs).__name__}: use pool, or pass a list",
            field="xs",
        )
    return xs
