"""Type aliases that the pooling modules share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]

#: The values of one spec, and its indices if the spec asks for them.
TensorResult = tuple[torch.Tensor, torch.Tensor | None]

#: Pools planes (P, *spatial), P > 0, any strides, of the one spatial shape and dtype that it was made for.
CompleteKernel = Callable[[Array], Array]

#: As `CompleteKernel`, but returns None for planes that torch must pool, because torch is faster or only torch gives
#: the right bits.
Kernel = Callable[[Array], Array | None]

#: Makes the kernel of a spec for planes of a spatial shape and dtype; None if torch must pool all such planes.
KernelFactory = Callable[[Any, tuple[int, ...], np.dtype], Kernel | None]
