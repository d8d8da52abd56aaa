"""The shapes and dtypes that each operator accepts and returns: torch's rules, with readable errors.

Nothing here touches a tensor, so the service can refuse a request, or compute the size of its response, before the
request enters the queue.
"""

import math

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.specs import AdaptiveSpec, GlobalSpec, PoolSpec, SampleSpec, Window, WindowSpec
from poolservice.specs.sequential import Sequential1d, Sequential2d, Sequential3d
from poolservice.specs.validation import MAX_SIZE

# The limit for padding that is larger than the input. More has no effect, yet torch's kernels visit it value by value.
_MAX_IDLE_PADDING = 2**16

# No machine holds a tensor of more values, and torch's own counters overflow not far above.
_MAX_VALUES = 2**47

# These use torch's avg_pool3d, which accepts no kernel larger than the input, whatever the padding.
_KERNEL_WITHIN_INPUT = frozenset({("avg_pool", 3), ("lp_pool", 3), ("mixed_pool", 3)})

#: The layers that apply other layers.
SEQUENCES = (Sequential1d, Sequential2d, Sequential3d)

_FLOAT32 = np.dtype(np.float32)
_AXES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def output_shape(spec: PoolSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the result of `spec` for a tensor of `shape`.

    Shape:
        (C, *) gives (C, *out) and (N, C, *) gives (N, C, *out), with as many spatial dimensions as the spec has. A
        SampleSpec gives a shape of its own instead of (C, *out).

    Raises:
        InvalidRequest: torch's operator of that name refuses the shape, or would exceed its own size limits. The field
            is ``tensor.shape`` or the parameter's name. For operators that torch lacks, MinPool follows MaxPool,
            MixedPool follows both MaxPool and AvgPool, and a global operator accepts any plane that is not empty.
    """
    if isinstance(spec, SEQUENCES):
        return layer_shapes(spec, shape)[-1]
    dims = spec.spatial_dims
    if len(shape) - dims not in (1, 2):
        channels = ", ".join(("C", *_AXES[dims]))
        raise InvalidRequest(
            f"{type(spec).__name__} takes {dims + 1} dimensions ({channels}) or {dims + 2} (N, {channels}); "
            f"got {len(shape)} in {shape}",
            field="tensor.shape",
        )
    _check_count(shape, "the tensor", field="tensor.shape")
    leading, spatial = shape[:-dims], shape[-dims:]
    if isinstance(spec, AdaptiveSpec):
        out = plane_result(spec, spatial)
        _check_count(leading + out, "the result", field="output_size")
        if spec.operator == "adaptive_avg_pool" and out == (1,) * dims:
            return leading + out  # torch accepts empty planes here; their mean is NaN.
    _check_planes(spec, shape)
    if isinstance(spec, SampleSpec):
        result = _sample_result(spec, leading, spatial)
        spec.check_shape(shape, result)
        return result
    if isinstance(spec, WindowSpec) and (spec.operator, dims) in _KERNEL_WITHIN_INPUT:
        _check_kernel_within(spec, spatial)
    result = leading + plane_result(spec, spatial)
    spec.check_shape(shape, result)
    return result


def _check_planes(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    """Check that no plane is empty, and that there are channels."""
    dims = spec.spatial_dims
    spatial = shape[-dims:]
    if 0 in spatial:
        raise InvalidRequest(
            f"{type(spec).__name__} takes no empty plane: each of the last {_count(dims)} must be at least 1; "
            f"got {spatial} in {shape}",
            field="tensor.shape",
        )
    if shape[-1 - dims] == 0 and not _takes_no_channels(spec, has_batch_dimension=len(shape) == dims + 2):
        raise InvalidRequest(
            f"{type(spec).__name__} takes no tensor without channels; got {shape}", field="tensor.shape"
        )


def plane_result(spec: PoolSpec, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Return the spatial shape of the result for a plane that the spec accepts, if channels are pooled by themselves.

    Raises:
        InvalidRequest: no window fits into one of the dimensions.
    """
    if isinstance(spec, AdaptiveSpec):
        return tuple(size if wanted is None else wanted for wanted, size in zip(spec.sizes, spatial, strict=True))
    if isinstance(spec, WindowSpec):
        return window_grid(spec.window_in(spatial), spatial)
    return (1,) * spec.spatial_dims


def layers_of(spec: PoolSpec) -> tuple[PoolSpec, ...]:
    """Return the layers that a spec applies one after the other: those of a Sequential, or the spec itself."""
    layers: tuple[PoolSpec, ...] = getattr(spec, "layers", (spec,))
    return layers


def layer_shapes(spec: PoolSpec, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shape of the result of each layer of a Sequential for a tensor of `shape`.

    Raises:
        InvalidRequest: a layer does not take the result of the one before.
    """
    shapes: list[tuple[int, ...]] = []
    dims = spec.spatial_dims
    for number, layer in enumerate(layers_of(spec)):
        taken = shapes[-1] if shapes else shape
        if shapes and len(taken) != len(shape) and not (layer.takes_vectors and len(taken) == len(shape) - dims):
            raise InvalidRequest(
                f"takes a feature map of {dims} spatial dimensions, but the layer before it gives {list(taken)}",
                field=f"layers[{number}]",
            )
        try:
            shapes.append(layer_shape(layer, taken) if shapes else output_shape(layer, taken))
        except InvalidRequest as error:
            if not number and error.field == "tensor.shape":
                raise
            raise InvalidRequest(
                f"{error.reason}; the input of this layer has the shape {list(taken)}",
                field=f"layers[{number}]"
                if error.field == "tensor.shape"
                else f"layers[{number}].{layer.operator}.{error.field}",
            ) from None
    return shapes


def layer_shape(layer: PoolSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the result of a layer of a Sequential, which may also take vectors (D,) or (N, D).

    Raises:
        InvalidRequest: as by `output_shape`.
    """
    if len(shape) <= 2 and layer.takes_vectors and isinstance(layer, SampleSpec):
        return (*shape[:-1], *layer.sample_shape(shape[-1:]))
    return output_shape(layer, shape)


def window_grid(window: Window, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many windows fit into each spatial dimension.

    Formula:
        floor((size + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1. With ceil_mode the division rounds
        up, but a last window that would start beyond the input and its left padding is left out.

    Raises:
        InvalidRequest: no window fits into one of the dimensions.
    """
    kernels, strides, paddings, dilations, ceil_mode = window
    out = []
    for size, kernel, stride, padding, dilation in zip(spatial, kernels, strides, paddings, dilations, strict=True):
        extent = dilation * (kernel - 1) + 1
        if extent > MAX_SIZE:
            raise InvalidRequest(
                f"a window may span at most {MAX_SIZE} values; "
                f"a kernel_size of {kernel} with a dilation of {dilation} spans {extent}",
                field="dilation",
            )
        if padding > _MAX_IDLE_PADDING and padding > size:
            raise InvalidRequest(
                f"must be at most {_MAX_IDLE_PADDING} if it is larger than the input, here {size}; got {padding}",
                field="padding",
            )
        room = size + 2 * padding - extent
        count = (room + stride - 1 if ceil_mode else room) // stride + 1
        if ceil_mode and (count - 1) * stride >= size + padding:
            count -= 1
        if count < 1:
            gaps = f", {extent} with a dilation of {dilation}," if dilation > 1 else ""
            raise InvalidRequest(
                f"no window fits: a kernel_size of {kernel}{gaps} is larger than the input, "
                f"{size} with a padding of {padding} on either side",
                field="kernel_size" if dilation == 1 else "dilation",
            )
        out.append(count)
    return tuple(out)


def result_dtype(spec: PoolSpec, dtype: np.dtype) -> np.dtype:
    """Return the dtype of the result of `spec` for a tensor of `dtype`.

    An order statistic is a value of the input and keeps its dtype. A mean or a power sum keeps a float dtype and gives
    float32 for integers.
    """
    if isinstance(spec, SEQUENCES):
        for layer in layers_of(spec):
            dtype = result_dtype(layer, dtype)
        return dtype
    if spec.keeps_dtype or dtype.kind not in "iu":
        return dtype
    return _FLOAT32


def _sample_result(spec: SampleSpec, leading: tuple[int, ...], spatial: tuple[int, ...]) -> tuple[int, ...]:
    result = (*leading[:-1], *spec.sample_shape((leading[-1], *spatial)))
    _check_count(result, "the result", field="tensor.shape")
    return result


def _takes_no_channels(spec: PoolSpec, *, has_batch_dimension: bool) -> bool:
    # This follows from torch's checks; there is no rule behind it.
    if spec.takes_samples:
        return False
    if isinstance(spec, GlobalSpec):
        return True
    if spec.operator == "adaptive_max_pool":
        return not has_batch_dimension
    return spec.operator == "adaptive_avg_pool" and not (has_batch_dimension and spec.spatial_dims == 3)


def _check_kernel_within(spec: WindowSpec, spatial: tuple[int, ...]) -> None:
    kernel = spec.window.kernel_size
    if any(size < length for size, length in zip(spatial, kernel, strict=True)):
        raise InvalidRequest(
            f"{type(spec).__name__} takes no kernel larger than the input, even if padding makes room; "
            f"got {kernel} for {spatial}",
            field="kernel_size",
        )


def _check_count(shape: tuple[int, ...], what: str, *, field: str) -> None:
    # Without the empty dimensions, because numpy refuses such a shape even if it has no values.
    count = math.prod(max(size, 1) for size in shape)
    if count > _MAX_VALUES:
        empty = ", but for its empty dimensions" if 0 in shape else ""
        raise InvalidRequest(f"{what} would have {count} values{empty}, more than any machine holds", field=field)


def _count(dims: int) -> str:
    return "dimension" if dims == 1 else f"{dims} dimensions"
