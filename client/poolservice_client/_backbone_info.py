"""The descriptions of a server's backbones, which `server_info` returns."""

from collections.abc import Sequence
from dataclasses import dataclass

from poolservice.errors import InvalidRequest
from poolservice.specs.validation import shown
from poolservice_client._response.status import printable


@dataclass(frozen=True, slots=True)
class PreprocessingInfo:
    """A value of a backbone's preprocessing.

    Attributes:
        name: the key in the backbone's file, such as "resize" or "mean".
        value: the value as text.
    """

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class BackboneOutputInfo:
    """An output of a backbone.

    Attributes:
        name: the name, for `tap`.
        kind: "FEATURE_MAP", which specs pool, or "VECTOR".
        shape: the shape for one sample: (C, H, W) or (D,).
    """

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BackboneInfo:
    """A backbone of the server: a network that computes feature maps and vectors from images.

    Attributes:
        name: the name, for `backbone`.
        description: what it is, in one sentence.
        licence: the licence of its weights.
        source: where it comes from.
        fingerprint: identifies the model, its preprocessing and its outputs. Equal fingerprints give equal features,
            within the tolerance of the device's arithmetic.
        input_shape: the shape of one preprocessed sample, (C, H, W).
        preprocessing: how an image becomes such a sample, step by step.
        outputs: its outputs.
        default_output: the name of the output of calls that name none.
        labels: the names of the classes, by index; empty without a classification head.
        engines: the engine and the device that run it, such as "onnxruntime on cpu". With a GPU, the CPU's engine
            follows.
        memory_bytes: the memory of its weights and activations, measured when the server started.
        seconds: the time of one sample on the preferred device, measured when the server started.
        state: "SERVING", or "BROKEN" if its files are missing or wrong and the server started without it.
        reason: why it does not serve; else empty.
    """

    name: str
    description: str
    licence: str
    source: str
    fingerprint: str
    input_shape: tuple[int, ...]
    preprocessing: tuple[PreprocessingInfo, ...]
    outputs: tuple[BackboneOutputInfo, ...]
    default_output: str
    labels: tuple[str, ...]
    engines: tuple[str, ...]
    memory_bytes: int
    seconds: float
    state: str
    reason: str


def find_backbone(backbones: Sequence[BackboneInfo], name: str) -> BackboneInfo:
    """Return the one of a server's backbones with a name.

    Raises:
        InvalidRequest: the server has none with this name, or it does not serve.
    """
    for backbone in backbones:
        if backbone.name == name:
            if backbone.state != "SERVING":
                raise InvalidRequest(f"{name} does not serve: {printable(backbone.reason)}", field="backbone")
            return backbone
    names = ", ".join(backbone.name for backbone in backbones if backbone.state == "SERVING")
    has = f"this server has {printable(names)}" if names else "this server has no backbones"
    raise InvalidRequest(f"there is no backbone {shown(name)}; {has}", field="backbone")
