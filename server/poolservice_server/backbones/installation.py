"""The packages that backbones need, which an optional extra installs."""

from importlib.util import find_spec

_REQUIRED = ("onnx", "onnxruntime", "safetensors")


def missing_packages() -> str:
    """Return a sentence that says what to install before a backbone can be used; "" if nothing is missing."""
    missing = [name for name in _REQUIRED if find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"backbones need {', '.join(missing)}; install poolservice with its backbones extra, in a clone of the "
        "repository with: pip install '.[server,backbones]'"
    )
