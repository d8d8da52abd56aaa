"""The function of each operator in torch, for any device."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from poolservice_server.operators import OPERATORS
from poolservice_server.pooling.torch_operators import (
    exponential_means,
    extremes,
    means_and_power_sums,
    power_means,
    similarity_means,
    spatial_regions,
)

_MODULES = (extremes, means_and_power_sums, exponential_means, power_means, similarity_means, spatial_regions)

#: By the name of the operator in the contract, which is the function's name, too. `dispatch` applies sequences.
FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        name: next(vars(module)[name] for module in _MODULES if name in vars(module))
        for name in OPERATORS
        if name != "sequential"
    }
)
