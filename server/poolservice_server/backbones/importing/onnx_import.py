"""Imports an ONNX file."""

from pathlib import Path

from poolservice_server.backbones.importing.graph import Graph
from poolservice_server.backbones.importing.imported import ImportedBackbone, write_backbone
from poolservice_server.backbones.importing.model_file import read_model
from poolservice_server.backbones.importing.options import ImportOptions
from poolservice_server.backbones.importing.output_choice import choose
from poolservice_server.backbones.importing.presets import preprocessing_of


def import_onnx(path: Path, target: Path, options: ImportOptions) -> ImportedBackbone:
    """Make a backbone's folder of an ONNX file.

    Raises:
        ImportFailed: the file or an option is wrong.
    """
    graph = Graph(read_model(path), options.image_size)
    image = preprocessing_of(options.preprocessing, graph.input.shape)
    return write_backbone(target, graph, choose(graph, options.outputs), image, options)
