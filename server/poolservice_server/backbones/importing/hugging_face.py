"""Imports a folder as Hugging Face's tools lay it out: preprocessor_config.json and an ONNX file."""

import json
from pathlib import Path
from typing import Any

from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.graph import Graph
from poolservice_server.backbones.importing.image_processor import ProcessorRules, read_processor
from poolservice_server.backbones.importing.imported import ImportedBackbone, write_backbone
from poolservice_server.backbones.importing.model_file import read_model
from poolservice_server.backbones.importing.options import ImportOptions
from poolservice_server.backbones.importing.output_choice import choose
from poolservice_server.backbones.importing.presets import preprocessing_of

_PROCESSOR, _CONFIG = "preprocessor_config.json", "config.json"
# Far more than the names of many thousand classes need.
_MAX_JSON_BYTES = 16 << 20
_MODELS = ("onnx/model.onnx", "model.onnx", "onnx/vision_model.onnx", "vision_model.onnx")


def import_hugging_face(folder: Path, target: Path, options: ImportOptions) -> ImportedBackbone:
    """Make a backbone's folder of a Hugging Face-style folder.

    Raises:
        ImportFailed: a file is missing or wrong, or its contents are not supported.
    """
    graph, rules = read_folder_of_model(folder, options.image_size)
    image = preprocessing_of(options.preprocessing, graph.input.shape, rules.preset)
    outputs = choose(graph, options.outputs)
    return write_backbone(target, graph, outputs, image, options, known_labels=_labels(folder))


def read_folder_of_model(folder: Path, image_size: tuple[int, int] | None) -> tuple[Graph, ProcessorRules]:
    """Return the graph of a folder and what its image processor does.

    Args:
        folder: the folder.
        image_size: the height and width of images; None for those that the image processor makes.

    Raises:
        ImportFailed: a file is missing or wrong.
    """
    config = _read_json(folder / _PROCESSOR)
    if config is None:
        raise ImportFailed(f"{folder}: has no {_PROCESSOR}, which says how images are prepared")
    try:
        rules = read_processor(config)
    except ImportFailed as error:
        raise ImportFailed(
            f"{folder / _PROCESSOR}: {error}; to state the preprocessing yourself, import the .onnx file instead of "
            "the folder, with --preprocessing"
        ) from None
    return Graph(read_model(_find_model(folder)), image_size or rules.image_size), rules


def _find_model(folder: Path) -> Path:
    for name in _MODELS:
        if (folder / name).is_file():
            return folder / name
    raise ImportFailed(
        f"{folder}: has none of {', '.join(_MODELS)}; export the model first, such as with optimum-cli export onnx"
    )


def _labels(folder: Path) -> tuple[str, ...]:
    """Return the names of the classes in config.json; none if the file only numbers them."""
    names = (_read_json(folder / _CONFIG) or {}).get("id2label")
    if not isinstance(names, dict):
        return ()
    labels = [names.get(str(index)) for index in range(len(names))]
    if not all(isinstance(label, str) for label in labels) or labels[:1] == ["LABEL_0"]:
        return ()
    return tuple(" ".join(str(label).split()) for label in labels)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ImportFailed(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MAX_JSON_BYTES:
        raise ImportFailed(f"{path}: must have at most {_MAX_JSON_BYTES} bytes")
    try:
        # json.loads would guess the encoding of bytes.
        contents = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ImportFailed(f"{path}: is no JSON: {error}") from None
    if not isinstance(contents, dict):
        raise ImportFailed(f"{path}: must be a JSON object")
    return contents
