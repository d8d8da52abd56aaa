"""The description of what a device does with a request for a backbone: its stage, its payload and its result.

Request validation builds these, so nothing here imports torch. `poolservice_server.backbones.engines` runs a stage.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from poolservice.specs import PoolSpec
from poolservice_server.pool_stage import SpecResult


class BackboneFailed(Exception):
    """The network cannot give a result for the samples of a request; others are not affected.

    The message is the reason, for the caller.
    """


@dataclass(frozen=True, slots=True)
class BackboneStage:
    """The run of a backbone to one of its outputs. The payloads say how each request pools it.

    Attributes:
        backbone: the name of the backbone.
        output: the name of the output.
    """

    backbone: str
    output: str


class ClassChoice(NamedTuple):
    """The classes that a request asks for.

    Attributes:
        top: the number of classes with the highest logits.
        classes: the indices of further classes.
        activation_maps: whether to compute a class activation map for each class.
    """

    top: int
    classes: tuple[int, ...] = ()
    activation_maps: bool = False


class BackboneInput:
    """The payload of a request for a backbone.

    Attributes:
        samples: (N, C, H, W): uint8, the pixels of an image that is resized and cropped, in the order of the network's
            channels; or float32, preprocessed by the caller.
        specs: how the output is pooled; if there are none, the output itself is the result, unless classes are wanted.
        classes: the classes that are wanted; None for none.
    """

    __slots__ = ("classes", "samples", "specs")

    def __init__(self, samples: np.ndarray, specs: tuple[PoolSpec, ...], classes: ClassChoice | None = None) -> None:
        self.samples = samples
        self.specs = specs
        self.classes = classes

    @property
    def nbytes(self) -> int:
        """The size of the samples."""
        return self.samples.nbytes

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, samples: slice) -> "BackboneInput":
        """Return the payload of some of the samples."""
        specs = tuple([spec.of_samples(samples) for spec in self.specs])
        return BackboneInput(self.samples[samples], specs, self.classes)


class ClassResult(NamedTuple):
    """The classes that a request asked for, k of them.

    Attributes:
        indices: int64 (k,), the classes.
        logits: float32 (k,).
        probabilities: float32 (k,), the softmax over all classes.
        activation_maps: float32 (k, H, W) if they are wanted, else None.
    """

    indices: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    activation_maps: np.ndarray | None = None


class BackboneResult(NamedTuple):
    """The result of a request for a backbone.

    Attributes:
        specs: the result of each spec, over planes (N * C, H, W). Without specs, the output itself: planes of a feature
            map, or (N, D) of a vector; nothing if classes are wanted.
        classes: the classes that are wanted.
        backbone_seconds: how long the backbone ran.
    """

    specs: tuple[SpecResult, ...]
    classes: ClassResult | None
    backbone_seconds: float
