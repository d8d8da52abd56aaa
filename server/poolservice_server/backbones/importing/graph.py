"""The graph of an ONNX model: its image input, its tensors, and its outputs."""

from typing import Literal, NamedTuple

import onnx
from onnx import TensorProto, helper

from poolservice_server.backbones.engines.engine import first_line
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.session import measured_shapes
from poolservice_server.backbones.importing.shapes import TensorUse, use_of
from poolservice_server.backbones.manifest_values import LARGEST_SIDE
from poolservice_server.foreign_text import quote

_BATCH = "N"
_UNKNOWN = TensorProto.UNDEFINED


class GraphInput(NamedTuple):
    """The image input of a graph.

    Attributes:
        name: its name.
        shape: (C, H, W).
    """

    name: str
    shape: tuple[int, int, int]

    @property
    def color_mode(self) -> Literal["RGB", "GRAY"]:
        """The color mode of the images."""
        return "RGB" if self.shape[0] == 3 else "GRAY"


class Graph:
    """A graph whose input is a batch of any number of images (N, C, H, W).

    Attributes:
        model: the model.
        input: its image input.
        shapes: the shape for one sample of each tensor that the graph computes in float32, in the graph's order, as far
            as it can be inferred.
        makers: the node that computes a tensor from the input, by the tensor's name.
    """

    def __init__(self, model: onnx.ModelProto, image_size: tuple[int, int] | None = None) -> None:
        """Give the model an input with a static image size and any batch size.

        Args:
            model: the model, which is changed.
            image_size: the height and width of images, if the model accepts several.

        Raises:
            ImportFailed: the model takes something other than one batch of images.
        """
        self.model = model
        self.input = _prepare_input(model.graph, image_size)
        self.makers = _makers(model.graph, self.input.name)
        # Annotations may state the batch size that the input had before.
        del model.graph.value_info[:]
        for output in model.graph.output:
            dims = output.type.tensor_type.shape.dim
            if dims:
                dims[0].dim_param = _BATCH
        self.shapes = self._infer_shapes()

    @property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs."""
        return [output.name for output in self.model.graph.output]

    def use_of(self, tensor: str) -> TensorUse | None:
        """Return what a tensor can serve as, or None."""
        shape = self.shapes.get(tensor)
        return None if shape is None else use_of(shape, self.input.shape[1:])

    def add_output(self, tensor: str) -> None:
        """Make a tensor an output of the graph."""
        if tensor not in self.outputs:
            dims: list[str | int | None] = [_BATCH, *self.shapes[tensor]]
            self.model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, dims))

    def _infer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Infer the shapes for a batch of one sample: with a static batch, more of them can be inferred."""
        single = onnx.ModelProto()
        single.CopyFrom(self.model)
        for value in (*single.graph.input, *single.graph.output):
            dims = value.type.tensor_type.shape.dim
            if dims and dims[0].dim_param == _BATCH:
                dims[0].dim_value = 1
        try:
            inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
        except onnx.shape_inference.InferenceError as error:
            raise ImportFailed(f"the graph is inconsistent: {quote(first_line(error))}") from None
        values = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.output)}
        shapes = {
            name: tuple(dim.dim_value for dim in values[name].shape.dim)
            for name in self.makers
            if name in values and _is_static(values[name])
        }
        # Exporters compute sizes in ways that only a run can follow.
        unknown = [name for name in self.makers if name not in shapes]
        if unknown:
            shapes |= measured_shapes(self.model, self.input.name, self.input.shape, unknown)
        floats = {
            name
            for name in self.makers
            if name not in values or values[name].elem_type in (_UNKNOWN, TensorProto.FLOAT)
        }
        return {name: shapes[name][1:] for name in self.makers if name in floats and len(shapes.get(name, ())) > 1}


def _makers(graph: onnx.GraphProto, input_name: str) -> dict[str, onnx.NodeProto]:
    makers: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        # A node with an inner graph can use any tensor, without naming it as its input.
        if any(name == input_name or name in makers for name in node.input) or _has_inner_graph(node):
            makers.update((name, node) for name in node.output if name)
    return makers


def _has_inner_graph(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _is_static(tensor: onnx.TypeProto.Tensor) -> bool:
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def _prepare_input(graph: onnx.GraphProto, image_size: tuple[int, int] | None) -> GraphInput:
    constants = {constant.name for constant in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(quote(value.name, 50) for value in inputs[:8])
        raise ImportFailed(f"the graph must have one input, a batch of images; it has {len(inputs)}: {names}")
    value = inputs[0]
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        known = TensorProto.DataType.DESCRIPTOR.values_by_number
        found = known[tensor.elem_type].name.lower() if tensor.elem_type in known else "of an unknown type"
        raise ImportFailed(f"the input {quote(value.name)} must be float32, and is {found}; export it in float32")
    # Some exporters write -1 for a size that is not static.
    dims = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    shape = f"({', '.join('?' if size is None else str(size) for size in dims)})"
    if len(dims) != 4 or not {dims[1], dims[3]} & {1, 3}:
        raise ImportFailed(
            f"the input {quote(value.name)} must be images (N, C, H, W) or (N, H, W, C) with 1 or 3 channels; its "
            f"shape is {shape}"
        )
    is_channels_last = dims[1] not in (1, 3)
    sides = dims[1:3] if is_channels_last else dims[2:]
    size = _static_size(sides, image_size, shape)
    channels = dims[3] if is_channels_last else dims[1]
    if channels is None:
        raise AssertionError("one of the two is 1 or 3")
    dimensions = (channels, *size)
    _set_shape(tensor, (*size, channels) if is_channels_last else dimensions)
    if is_channels_last:
        return GraphInput(_put_transposition(graph, value, dimensions), dimensions)
    return GraphInput(value.name, dimensions)


def _static_size(sides: list[int | None], image_size: tuple[int, int] | None, shape: str) -> tuple[int, int]:
    if any(side is not None and side > LARGEST_SIDE for side in sides):
        raise ImportFailed(f"the input's shape is {shape}, but its sides must be at most {LARGEST_SIDE}")
    if image_size is None:
        height, width = sides
        if not height or not width:
            raise ImportFailed(
                f"the input's shape is {shape}; give the image size that it was trained for: --input-size"
            )
        return height, width
    if any(side not in (None, given) for side, given in zip(sides, image_size, strict=True)):
        raise ImportFailed(
            f"the input's shape is {shape}, but the images have height {image_size[0]} and width {image_size[1]}"
        )
    return image_size


def _set_shape(tensor: onnx.TypeProto.Tensor, dimensions: tuple[int, ...]) -> None:
    dims = tensor.shape.dim
    dims[0].dim_param = _BATCH
    for dim, size in zip(dims[1:], dimensions, strict=True):
        dim.dim_value = size


def _put_transposition(graph: onnx.GraphProto, value: onnx.ValueInfoProto, dimensions: tuple[int, int, int]) -> str:
    """Put a transposition from (N, C, H, W) in front of an input (N, H, W, C); return the new input's name."""
    name = f"{value.name}_NCHW"
    graph.node.insert(0, helper.make_node("Transpose", [name], [value.name], perm=[0, 2, 3, 1]))
    graph.input.remove(value)
    graph.input.insert(0, helper.make_tensor_value_info(name, TensorProto.FLOAT, [_BATCH, *dimensions]))
    return name
