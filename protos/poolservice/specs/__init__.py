"""One immutable description per layer: its parameters, their rules, and its message on the wire.

The constructors reject parameters that are wrong for every input, with the same error messages as the server.
"""

from poolservice.specs import layers
from poolservice.specs.base import SIZES, AdaptiveSpec, GlobalSpec, PoolSpec, SampleSpec
from poolservice.specs.constructors import explain_errors
from poolservice.specs.layers import *  # noqa: F403 - `layers` has the one list that the SDK and the specs export
from poolservice.specs.messages import LAYERS, OPERATORS, from_message, to_message
from poolservice.specs.tensor_parameter import MAX_PARAMETER_BYTES, TensorParameter
from poolservice.specs.windows import Window, WindowOrPlaneSpec, WindowSpec

__all__ = [
    "LAYERS",
    "MAX_PARAMETER_BYTES",
    "OPERATORS",
    "SIZES",
    "AdaptiveSpec",
    "GlobalSpec",
    "PoolSpec",
    "SampleSpec",
    "TensorParameter",
    "Window",
    "WindowOrPlaneSpec",
    "WindowSpec",
    "from_message",
    "to_message",
]
__all__ += layers.__all__

for _layer in LAYERS.values():
    explain_errors(_layer)
