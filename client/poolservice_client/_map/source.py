"""What a map is given to go through."""

from collections.abc import Iterable
from typing import Any

from poolservice.errors import InvalidRequest


def iterable(xs: Any) -> Iterable[Any]:
    """`xs`, unless it is one picture rather than many, or nothing to go through.

    Raises:
        InvalidRequest: it is.
    """
    if isinstance(xs, str | bytes | bytearray | memoryview) or not isinstance(xs, Iterable):
        raise InvalidRequest(
            f"map takes an iterable of tensors or pictures; got one {type(xs).__name__}: use pool, or give a list",
            field="xs",
        )
    return xs
