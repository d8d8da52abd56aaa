"""Recognizes the kind of model that is imported, and calls its importer."""

from importlib.util import find_spec
from pathlib import Path

from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.graph import Graph
from poolservice_server.backbones.importing.hugging_face import import_hugging_face, read_folder_of_model
from poolservice_server.backbones.importing.imported import ImportedBackbone
from poolservice_server.backbones.importing.model_file import read_model
from poolservice_server.backbones.importing.onnx_import import import_onnx
from poolservice_server.backbones.importing.options import ImportOptions
from poolservice_server.foreign_text import quote

_TIMM = "timm:"
_STATE_DICTS = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")


def import_model(
    model: str, target: Path, options: ImportOptions, *, architecture: str | None = None, weights: Path | None = None
) -> ImportedBackbone:
    """Make a backbone's folder of a model.

    Args:
        model: an ONNX file, a state dict, a Hugging Face-style folder, or timm:NAME.
        target: the folder.
        options: what the user says about the backbone.
        architecture: of a state dict.
        weights: the state dict of timm:NAME.

    Raises:
        ImportFailed: the model or an option is wrong.
    """
    is_timm, path = model.startswith(_TIMM), Path(model)
    is_state_dict = not is_timm and path.suffix in _STATE_DICTS
    if architecture is not None and not is_state_dict:
        raise ImportFailed(f"--architecture belongs to a state dict ({', '.join(_STATE_DICTS)}); got {quote(model)}")
    if weights is not None and not is_timm:
        raise ImportFailed(f"--weights belongs to timm:NAME; got {quote(model)}")
    if is_timm:
        if weights is None:
            raise ImportFailed("timm:NAME needs --weights FILE, because nothing is downloaded")
        _check_exporter()
        # torch, which these import, takes seconds.
        from poolservice_server.backbones.importing.timm_import import import_timm

        return import_timm(model.removeprefix(_TIMM), weights, target, options)
    _check_exists(path)
    if path.is_dir():
        return import_hugging_face(path, target, options)
    if not is_state_dict:
        return import_onnx(_checked_onnx(path), target, options)
    if architecture is None:
        raise ImportFailed(f"{path}: a state dict has no network in it; name its network with --architecture NAME")
    _check_exporter()
    from poolservice_server.backbones.importing.torch_import import import_state_dict

    return import_state_dict(path, architecture, target, options)


def read_graph(model: str, image_size: tuple[int, int] | None) -> Graph:
    """Return the graph of an ONNX file or of a Hugging Face-style folder.

    Raises:
        ImportFailed: there is no such file, or it is wrong.
    """
    path = Path(model)
    if model.startswith(_TIMM) or path.suffix in _STATE_DICTS:
        raise ImportFailed(
            f"{quote(model)}: only the tensors of ONNX files can be listed; name the new folder with -o DIR"
        )
    _check_exists(path)
    if path.is_dir():
        return read_folder_of_model(path, image_size)[0]
    return Graph(read_model(_checked_onnx(path)), image_size)


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise ImportFailed(f"{path}: there is no such file or folder")


def _checked_onnx(path: Path) -> Path:
    if path.suffix == ".pt2":
        raise ImportFailed(
            f"{path}: a .pt2 program can run any code, so it is not imported; export the network to ONNX instead"
        )
    if path.suffix != ".onnx":
        raise ImportFailed(
            f"{path}: must be an .onnx file, a state dict ({', '.join(_STATE_DICTS)}), a folder with "
            "preprocessor_config.json, or timm:NAME"
        )
    return path


def _check_exporter() -> None:
    if find_spec("onnxscript") is None:
        raise ImportFailed(
            "torch exports networks with onnxscript, which is not installed; install poolservice with its backbones "
            "extra"
        )
