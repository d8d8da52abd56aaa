"""The measured coefficients of the estimates, in steps per value unless they say otherwise.

Measured in November 2026 on a 2-core x86-64 with AVX-512, torch 2.13, numpy 2.4, by

    python tests/bench/stage_cost.py --groups

which prints for each operator and type by how much to multiply its coefficients.
"""

from collections.abc import Mapping
from types import MappingProxyType

#: One call of a spec: its checks, its calls into numpy or torch.
CALL = 30_000.0

#: The calls for one sample, or for a part of its channels, of an operator that pools one sample at a time.
SAMPLE = 100_000.0

#: One pass of numpy over a value, by its size in bytes: a maximum or a sum of two arrays in the caches.
PASS: Mapping[int, float] = MappingProxyType({1: 0.016, 2: 0.03, 4: 0.08, 8: 0.2})

#: The same from and to the memory, for arrays that exceed the caches.
LARGE_PASS: Mapping[int, float] = MappingProxyType({1: 0.04, 2: 0.08, 4: 0.2, 8: 0.4})

#: Converting a value to another dtype.
CONVERSION = 0.25

#: Copying a byte of a result.
COPY = 0.2

#: One call per position of a window while values are gathered.
GATHER_CALL = 700.0

#: A value that is gathered from its plane.
GATHERED = 0.9

#: A value of a window that torch visits: its maximum, its mean; and for the mean a row of the window.
TORCH_MAXIMUM = 2.0
TORCH_MEAN = 0.7
TORCH_MEAN_ROW = 1.5

#: A value of a window of floats in one dimension that torch visits, by its size in bytes: its maximum if the stride is
#: 1, so that torch computes neighboring windows together, and otherwise. A float of 16 bits takes longer.
TORCH_MAXIMUM_1D: Mapping[int, float] = MappingProxyType({2: 1.4, 4: 0.06, 8: 0.15})
TORCH_MAXIMUM_1D_STRIDED: Mapping[int, float] = MappingProxyType({2: 1.8, 4: 0.35, 8: 0.6})

#: The maximum of a window of floats in one dimension, per byte of it.
TORCH_RESULT_1D = 0.1

#: A window that torch visits, whatever its size.
TORCH_WINDOW = 4.0

#: A power of a value: an exponent for which torch multiplies or takes a root, and any other.
ARITHMETIC_POWER = 0.5
POWER = 12.0

#: The other operations on the sum of a window's powers, by the size of the sum in bytes.
POWER_SUM: Mapping[int, float] = MappingProxyType({4: 1.5, 8: 5.0})

#: The keys of a value and its position, and sorting a plane of 64-bit integers or floats instead, per value.
KEY = 5.0
RANK_INTEGER = 80.0
RANK_FLOAT = 140.0

#: A tile in numpy: its mean, the mean of its gathered values, its maximum in one dimension and, by the size of a value
#: in bytes, in two; and a row of a plane for the maximum.
TILE_MEAN = 8.0
TILE_GATHERED_MEAN = 6.0
TILE_MAXIMUM_1D = 10.0
TILE_MAXIMUM: Mapping[int, float] = MappingProxyType({1: 20.0, 2: 40.0, 4: 40.0, 8: 40.0})
TILE_MAXIMUM_ROW = 90.0

#: A value of a tile in torch, for its mean and its maximum, in three dimensions of floats of 16 bits, and a contiguous
#: run of them.
TORCH_TILE_MEAN = 1.2
TORCH_TILE_MAXIMUM = 0.9
TORCH_TILE_MAXIMUM_3D_HALF = 2.5
TORCH_TILE_RUN = 5.0

#: A value of int64, which torch's operators check, convert and correct.
TORCH_INT64 = 4.0

#: A byte of the divisors of windows that are computed per call.
DIVISOR = 0.12

#: A value of a plane that is reduced to one value: its maximum relative to a pass, and its mean.
PLANE_MAXIMUM = 0.6
PLANE_MEAN = 0.12
