"""A backbone that serves: what request validation and GetServerInfo know about it, without its weights."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from poolservice_server.backbones.manifest import Input, Preprocessing


class Output(NamedTuple):
    """An output of a backbone.

    Attributes:
        kind: "map" or "vector".
        shape: the shape for one sample: (C, H, W) or (D,).
    """

    kind: Literal["map", "vector"]
    shape: tuple[int, ...]


class Backbone(NamedTuple):
    """A backbone that serves.

    Attributes:
        name: the name in requests.
        description: what it is.
        licence: the licence of its weights.
        source: where it comes from.
        fingerprint: identifies the model, its preprocessing and its outputs.
        input: the input of the network.
        preprocessing: how an image becomes an input.
        outputs: the outputs by name.
        default_output: the output of requests that name none.
        labels: the names of the classes; empty without a classification head.
        head_output: the feature map that the head averages; empty without a head.
        engines: the engine and the device that run it, the preferred one first, such as "onnxruntime on cpu".
        seconds: the time of one sample on the preferred device, measured at start.
        memory_bytes: the memory of weights and activations, measured at start.
    """

    name: str
    description: str
    licence: str
    source: str
    fingerprint: str
    input: Input
    preprocessing: Preprocessing
    outputs: Mapping[str, Output]
    default_output: str
    labels: tuple[str, ...]
    head_output: str
    engines: tuple[str, ...]
    seconds: float
    memory_bytes: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one preprocessed sample, (C, H, W)."""
        return sample_shape(self.input)


def sample_shape(input: Input) -> tuple[int, int, int]:
    """Return the shape of one preprocessed sample, (C, H, W)."""
    return (input.channels, input.height, input.width)


class BrokenBackbone(NamedTuple):
    """A backbone whose files are missing or wrong, without which the server started."""

    name: str
    reason: str


class Backbones(NamedTuple):
    """The backbones of a server, by name."""

    serving: Mapping[str, Backbone]
    broken: tuple[BrokenBackbone, ...] = ()


NO_BACKBONES = Backbones({})
