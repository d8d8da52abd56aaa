"""Writes the folder of a backbone whose graph, outputs and preprocessing are known, and checks the network."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from poolservice_server.backbones.counted import counted
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.graph import Graph
from poolservice_server.backbones.importing.linear_head import LinearHead, find_linear_head
from poolservice_server.backbones.importing.network_run import MAX_DIFFERENCE, NetworkRun
from poolservice_server.backbones.importing.new_folder import NewFolder, new_folder
from poolservice_server.backbones.importing.options import ImportOptions
from poolservice_server.backbones.importing.output_choice import FEATURES, ChosenOutput
from poolservice_server.backbones.manifest import SCHEMA, Input, Preprocessing
from poolservice_server.foreign_text import quote

_ONNX_FILE, _HEAD_FILE, _LABELS_FILE = "model.onnx", "head.safetensors", "labels.txt"


class ImportedBackbone(NamedTuple):
    """A backbone that was imported.

    Attributes:
        folder: its folder.
        input: its input.
        preprocessing: its preprocessing.
        outputs: its outputs, the default one first.
        classes: the number of classes of its linear head; 0 without one.
        notes: sentences about what the user may want to know or change.
    """

    folder: Path
    input: Input
    preprocessing: Preprocessing
    outputs: tuple[ChosenOutput, ...]
    classes: int
    notes: tuple[str, ...]


#: Compares a run with another computation of the network, and adds that engine's files to the folder: it returns tables
#: of `backbone.toml`.
AddEngine = Callable[[NewFolder, NetworkRun], Mapping[str, Any]]


def write_backbone(
    target: Path,
    graph: Graph,
    outputs: list[ChosenOutput],
    image: tuple[Input, Preprocessing],
    options: ImportOptions,
    *,
    add_engine: AddEngine | None = None,
    known_labels: Sequence[str] = (),
) -> ImportedBackbone:
    """Write a backbone's folder.

    Args:
        target: the folder, which must not exist or be empty.
        graph: the network, which gets the outputs.
        outputs: the outputs, the default one first.
        image: the input and the preprocessing.
        options: what the user says about the backbone.
        add_engine: adds another engine's files.
        known_labels: the names of the classes that the model's origin states, if they fit.

    Raises:
        ImportFailed: the network does not do what its graph says, or the folder exists.
    """
    notes: list[str] = []
    for output in outputs:
        graph.add_output(output.tensor)
    head = find_linear_head(graph)
    tensors = [output.tensor for output in outputs]
    if head is not None:
        graph.add_output(head.feature_map)
        tensors += [head.feature_map, head.logits]
    run = NetworkRun(_with_output(graph, head), graph.input.name, graph.input.shape, list(dict.fromkeys(tensors)))
    _check_shapes(graph, run)
    if head is not None and not _is_right(head, graph, run, notes):
        head = None
    head_output = _head_output(head, graph, outputs)
    classes = 0 if head is None else len(head.weight)
    labels = _labels(options, classes, known_labels)
    with new_folder(target) as folder:
        contents: dict[str, Any] = {
            "schema": SCHEMA,
            "name": options.name,
            "description": options.description,
            "licence": options.licence or "not stated",
            "source": options.source or "not stated",
            "default_output": outputs[0].name,
            "onnx": {**folder.add(_ONNX_FILE, graph.model.SerializeToString()), "input": graph.input.name},
        }
        if add_engine is not None:
            contents.update(add_engine(folder, run))
        contents["input"] = image[0].model_dump()
        contents["preprocessing"] = image[1].model_dump()
        contents["outputs"] = {output.name: _table(output) for output in outputs}
        if head is not None:
            contents["head"] = {
                **folder.add_tensors(_HEAD_FILE, {"weight": head.weight, "bias": head.bias}),
                "output": head_output,
            }
            if labels:
                folder.add(_LABELS_FILE, "".join(f"{label}\n" for label in labels).encode())
                contents["head"]["labels"] = _LABELS_FILE
        folder.add_manifest(contents)
    if classes and not labels:
        hint = ": if they are those of ImageNet, add --labels imagenet-1k" if classes == 1000 else ""
        verb = "has a number" if classes == 1 else "have numbers"
        notes.append(f"the {counted(classes, 'class')} {verb} instead of a name, because --labels is not given{hint}")
    if not options.licence or not options.source:
        notes.append("--licence and --source are not given; clients see them in server_info")
    return ImportedBackbone(target, *image, tuple(outputs), classes, tuple(notes))


def _check_shapes(graph: Graph, run: NetworkRun) -> None:
    """Compare the shapes with those of a run: a file may state wrong shapes for its outputs."""
    for tensor, values in run.outputs.items():
        stated, found = graph.shapes.get(tensor), values.shape[1:]
        if stated is not None and stated != found:
            raise ImportFailed(
                f"the output {quote(tensor)} has the shape {_of_batch(found)}, but the file says {_of_batch(stated)}"
            )


def _of_batch(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, ('N', *shape)))})"


def _labels(options: ImportOptions, classes: int, known: Sequence[str]) -> Sequence[str]:
    """Return the names of the classes: those that the user gave, or those that the model's origin states."""
    if options.labels is None:
        return known if len(known) == classes else ()
    if not classes:
        raise ImportFailed("--labels needs a linear head behind the mean of a feature map, and the network has none")
    if len(options.labels) != classes:
        raise ImportFailed(
            f"--labels has {counted(len(options.labels), 'label')}, and the network has {counted(classes, 'class')}"
        )
    return options.labels


def _with_output(graph: Graph, head: LinearHead | None) -> onnx.ModelProto:
    """Return the model, with the logits among its outputs for the comparison with the head."""
    if head is None or head.logits in graph.outputs:
        return graph.model
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    dims: list[str | int | None] = ["N", len(head.weight)]
    model.graph.output.append(onnx.helper.make_tensor_value_info(head.logits, onnx.TensorProto.FLOAT, dims))
    return model


def _is_right(head: LinearHead, graph: Graph, run: NetworkRun, notes: list[str]) -> bool:
    use = graph.use_of(head.feature_map)
    channels = -1 if use is None else use.shape[2 if use.layout == "NHWC" else 0]
    if use is None or head.weight.shape[1] != channels:
        return False
    difference = run.head_difference(head, use.layout)
    if np.isfinite(difference) and difference <= MAX_DIFFERENCE:
        return True
    notes.append(
        f"the layers behind {quote(head.feature_map)} look like a linear head, but their results differ from its by "
        f"{difference:.1e} of the largest logit, so there are no class activation maps"
    )
    return False


def _head_output(head: LinearHead | None, graph: Graph, outputs: list[ChosenOutput]) -> str:
    """Return the name of the head's feature map, which becomes an output if it is none."""
    if head is None:
        return ""
    for output in outputs:
        if output.tensor == head.feature_map and output.use.kind == "map":
            return output.name
    use = graph.use_of(head.feature_map)
    if use is None:
        raise AssertionError("the head was compared with this map")
    names = {output.name for output in outputs}
    name = next(
        name for name in (FEATURES, "head-features", *map("head-features-{}".format, range(99))) if name not in names
    )
    outputs.append(ChosenOutput(name, head.feature_map, use))
    return name


def _table(output: ChosenOutput) -> dict[str, Any]:
    table: dict[str, Any] = {"kind": output.use.kind, "tensor": output.tensor}
    if output.use.kind == "map" and output.use.layout != "NCHW":
        table["layout"] = output.use.layout
    if output.use.kind == "tokens":
        table |= {"prefix_tokens": output.use.prefix_tokens, "grid": output.use.grid}
    return table
