"""The request that every call of `poolservice bench` sends."""

import difflib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from poolservice.dtypes import DTYPE_NAMES
from poolservice_client import AsyncPoolClient, Execution
from poolservice_client._cli import operator_parser
from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._cli.load_generator import Call
from poolservice_client._cli.operator_parser import Operator

DEFAULT_SHAPE = "3x224x224"


class Workload(NamedTuple):
    """The request that every call sends.

    Attributes:
        operators: the operators.
        payload: the bytes of an encoded image, or an array.
        name: the payload's description.
        options: further keywords of `pool`.
    """

    operators: list[Operator]
    payload: bytes | NDArray[Any]
    name: str
    options: dict[str, Any]

    @property
    def payload_bytes(self) -> int:
        """The payload's size."""
        return len(self.payload) if isinstance(self.payload, bytes) else self.payload.nbytes

    @property
    def specs(self) -> list[str]:
        """The specs as they would be written in Python."""
        return [operator.layer for operator in self.operators]

    def __str__(self) -> str:
        specs, backbone = ", ".join(self.specs), self.options["backbone"]
        of = f"of the backbone {backbone} for" if backbone else "of"
        return f"{specs} {of} {self.name}, {self.payload_bytes:,} bytes per call"

    def call(self, client: AsyncPoolClient) -> Call:
        """Return the function that sends this request."""
        specs = operator_parser.specs_of(self.operators)

        async def send() -> Execution:
            execution: Execution
            _, execution = await client.pool(self.payload, specs, execution=True, **self.options)
            return execution

        return send


def random_tensor(shape: str, dtype: str) -> NDArray[Any]:
    """Return random values for the flags --shape and --dtype.

    Raises:
        UsageError: one of them is wrong.
    """
    try:
        sizes = tuple(int(size) for size in shape.lower().split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) < 2 or min(sizes) < 1:
        raise UsageError(f"--shape takes sizes from channels to width, such as {DEFAULT_SHAPE}; got {shape!r}")
    if dtype not in DTYPE_NAMES:
        close = difflib.get_close_matches(dtype.lower(), DTYPE_NAMES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"--dtype takes one of {', '.join(DTYPE_NAMES)}; got {dtype!r}{hint}")
    values = np.random.default_rng(0).random(sizes, dtype=np.float32)
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    return (values * 100 if numpy_dtype.kind in "iu" else values).astype(numpy_dtype)
