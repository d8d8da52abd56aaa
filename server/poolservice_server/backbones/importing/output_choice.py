"""Chooses the outputs of a backbone among the tensors of its graph."""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.graph import Graph
from poolservice_server.backbones.importing.linear_head import find_linear_head, find_pooled_map
from poolservice_server.backbones.importing.shapes import TensorUse
from poolservice_server.backbones.manifest_values import is_name
from poolservice_server.foreign_text import quote
from poolservice_server.settings.errors import did_you_mean

#: The name of the feature map that is chosen by default.
FEATURES = "features"
#: The name of the result of the classification head.
LOGITS = "logits"


class Candidate(NamedTuple):
    """A tensor that can serve as an output.

    Attributes:
        tensor: its name in the graph.
        use: what it can serve as.
        operator: the operator that computes it.
        is_output: whether it is an output of the graph already.
    """

    tensor: str
    use: TensorUse
    operator: str
    is_output: bool


class ChosenOutput(NamedTuple):
    """An output of the backbone.

    Attributes:
        name: its name in requests.
        tensor: its name in the graph.
        use: what it serves as.
    """

    name: str
    tensor: str
    use: TensorUse


def candidates(graph: Graph, *, every: bool = False) -> list[Candidate]:
    """Return the tensors that can serve as outputs, in the graph's order.

    Args:
        graph: the graph.
        every: whether to return every such tensor. By default: the last feature map of each height and width, the last
            token grid, the last vector, and the outputs of the graph.
    """
    outputs = frozenset(graph.outputs)
    found = [
        Candidate(tensor, use, graph.makers[tensor].op_type, tensor in outputs)
        for tensor in graph.shapes
        if (use := graph.use_of(tensor)) is not None
    ]
    if every:
        return found
    last = {_positions(candidate.use): candidate.tensor for candidate in found}
    # A map as large as the image is the image itself, or close to it.
    last.pop(graph.input.shape[1:], None)
    shown = {default_tensor(graph), *outputs, *last.values()}
    return [one for one in found if one.tensor in shown]


def _positions(use: TensorUse) -> object:
    """Return the sides of a feature map; the kind of other tensors."""
    if use.kind != "map":
        return use.kind
    return use.shape[:2] if use.layout == "NHWC" else use.shape[1:]


def default_tensor(graph: Graph) -> str | None:
    """Return the tensor that is the best choice for features.

    That is the feature map in front of the last global pooling; else an output of the graph with positions; else the
    last tensor with positions; else a vector that is an output of the graph.
    """
    if (pooled := find_pooled_map(graph)) is not None:
        return pooled
    uses = {tensor: use for tensor in graph.shapes if (use := graph.use_of(tensor)) is not None}
    with_positions = [tensor for tensor, use in uses.items() if use.kind != "vector"]
    of_graph = [tensor for tensor in graph.outputs if tensor in uses]
    for choice in ([one for one in of_graph if uses[one].kind != "vector"], with_positions[-1:], of_graph):
        if choice:
            return choice[0]
    return None


def choose(graph: Graph, wanted: Sequence[str]) -> list[ChosenOutput]:
    """Return the outputs of the backbone, the default one first.

    Args:
        graph: the graph.
        wanted: NAME=TENSOR for each output; if there are none, the default choice and the graph's own outputs.

    Raises:
        ImportFailed: a wanted tensor does not exist or cannot serve as an output, or nothing can.
    """
    chosen: dict[str, ChosenOutput] = {}
    for name, tensor in map(_parse, wanted) if wanted else _default_names(graph):
        if name in chosen:
            raise ImportFailed(f"two outputs have the name {name}")
        chosen[name] = ChosenOutput(name, tensor, _checked_use(graph, tensor))
    return list(chosen.values())


def _parse(wanted: str) -> tuple[str, str]:
    name, separator, tensor = wanted.partition("=")
    if not separator or not tensor or not is_name(name):
        raise ImportFailed(
            f"--output must be NAME=TENSOR, where NAME has letters, digits and ._- only; got {quote(wanted)}"
        )
    return name, tensor


def _default_names(graph: Graph) -> list[tuple[str, str]]:
    default = default_tensor(graph)
    if default is None:
        raise ImportFailed(
            "no tensor of the network can serve as an output: none has a static shape of a feature map, a token grid "
            "or a vector; choose one with --output NAME=TENSOR"
        )
    head = find_linear_head(graph)
    names = [(FEATURES, default)]
    taken = {FEATURES}
    for tensor in graph.outputs:
        use = graph.use_of(tensor)
        if tensor != default and use is not None:
            is_logits = head is not None and tensor == head.logits
            # Some exporters number the tensors.
            name = _free_name(LOGITS if is_logits else use.kind if tensor.isdecimal() else tensor, taken)
            taken.add(name)
            names.append((name, tensor))
    return names


def _free_name(tensor: str, taken: set[str]) -> str:
    base = re.sub(r"[^A-Za-z0-9._-]+", "_", tensor).lstrip("._-")[:60] or "output"
    names = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _checked_use(graph: Graph, tensor: str) -> TensorUse:
    if tensor not in graph.makers:
        raise ImportFailed(f"the network has no tensor {quote(tensor)}{did_you_mean(tensor, graph.makers)}")
    use = graph.use_of(tensor)
    if use is not None:
        return use
    shape = graph.shapes.get(tensor)
    if shape is not None and len(shape) == 3 and all(shape):
        # The user knows better than the rule about distances of positions.
        return TensorUse("map", shape)
    found = "" if shape is None else f"; its shape is {('N', *shape)}".replace("'", "")
    raise ImportFailed(
        f"{quote(tensor)} cannot be an output: it must be float32 with the static shape of a feature map (N, C, H, W), "
        f"a token grid (N, T, D) or a vector (N, D){found}"
    )
