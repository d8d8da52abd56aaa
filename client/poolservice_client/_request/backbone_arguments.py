"""The arguments that choose a backbone, one of its outputs and its classes: their checks before anything is sent."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.specs.validation import integer, shown

# An error about a name that many classes have gives this number of their indices.
_SHOWN_INDICES = 4
# By the contract, a request has at most this number of classes with the highest scores.
_MAX_TOP = 100


class Classification(NamedTuple):
    """The classes that `explain` asks for.

    Attributes:
        top: the number of classes with the highest scores.
        classes: the indices of further classes.
        maps: whether to compute a class activation map for each class.
    """

    top: int
    classes: tuple[int, ...]
    maps: bool

    @staticmethod
    def of(top: object, classes: Sequence[int], maps: object) -> "Classification":
        """Validate the arguments of `explain`.

        Raises:
            InvalidRequest: an argument is invalid, or no class is asked for.
        """
        count = integer("top", top)
        if not 0 <= count <= _MAX_TOP:
            raise InvalidRequest(f"must be 0 to {_MAX_TOP}; got {shown(count)}", field="top")
        if not isinstance(maps, bool):
            raise InvalidRequest(f"must be True or False; got {shown(maps)}", field="maps")
        if not count and not classes:
            raise InvalidRequest("must be 1 or more if no classes are given", field="top")
        return Classification(count, tuple(classes), maps)


def check_backbone(backbone: object, tap: object, color_mode: object) -> None:
    """Check the name of a backbone and of its output.

    Raises:
        InvalidRequest: a name is no text or empty, or an argument does not go with the others.
    """
    for name, value, example in (("backbone", backbone, "mobilenetv2"), ("tap", tap, "features")):
        if value is not None and (not isinstance(value, str) or not value):
            raise InvalidRequest(f'must be a name, such as "{example}"; got {shown(value)}', field=name)
    if backbone is None and tap is not None:
        raise InvalidRequest("names an output of a backbone: set backbone too", field="tap")
    if backbone is not None and color_mode is not None:
        raise InvalidRequest(
            "is not for a backbone, which decodes images to the channels that its network takes; leave it out",
            field="color_mode",
        )


def check_samples(dtype: "np.dtype[Any]", shape: tuple[int, ...], *, one: bool) -> None:
    """Check a tensor that is sent to a backbone.

    Args:
        dtype: its dtype.
        shape: its shape.
        one: whether it must have one sample.

    Raises:
        InvalidRequest: it is not float32 of shape (C, H, W) or (N, C, H, W), or has too many samples.
    """
    if dtype != np.float32 or len(shape) not in (3, 4):
        raise InvalidRequest(
            "a tensor for a backbone is preprocessed already: float32 of shape (C, H, W) or (N, C, H, W); got "
            f"{dtype.name} of shape {shape}. The server preprocesses images: pass a path, the bytes of an image file "
            "or a PIL image",
            field="x",
        )
    if one and len(shape) == 4 and shape[0] != 1:
        raise InvalidRequest(f"explain takes one sample at a time; got shape {shape}", field="x.shape")


def has_names(classes: object) -> bool:
    """Return True if a class is given by its name, so that the names of all classes are needed.

    Raises:
        InvalidRequest: `classes` is not a sequence.
    """
    if isinstance(classes, str) or not isinstance(classes, Sequence | np.ndarray):
        raise InvalidRequest(
            f'must be a list of indices or names, such as [3, "cat"]; got {shown(classes)}', field="classes"
        )
    return any(isinstance(one, str) for one in classes)


def class_indices(classes: Sequence[Any], labels: Sequence[str]) -> list[int]:
    """Return the indices of classes that are given by index or by name.

    Args:
        classes: indices, and names as in `labels`; upper and lower case matter only if both exist.
        labels: the names of all classes; not needed if all are indices.

    Raises:
        InvalidRequest: a class is neither an int nor a name among the labels, or several classes have the name.
    """
    indices = []
    for number, one in enumerate(classes):
        field = f"classes[{number}]"
        if isinstance(one, str):
            indices.append(_class_index(one, labels, field))
        else:
            index = integer(field, one, takes="an index or a name")
            if not 0 <= index < 2**32:
                raise InvalidRequest(f"the index of a class is 0 or more; got {shown(index)}", field=field)
            indices.append(index)
    return indices


def _class_index(name: str, labels: Sequence[str], field: str) -> int:
    found = [index for index, label in enumerate(labels) if label == name] or [
        index for index, label in enumerate(labels) if label.casefold() == name.casefold()
    ]
    if not found:
        raise InvalidRequest(_unknown_class(name, labels), field=field)
    if len(found) > 1:
        indices = " and ".join(map(str, found[:_SHOWN_INDICES])) + (" and more" if found[_SHOWN_INDICES:] else "")
        raise InvalidRequest(f"the classes {indices} have the name {shown(name)}; give the index", field=field)
    return found[0]


def _unknown_class(name: str, labels: Sequence[str]) -> str:
    by_key = {label.casefold(): label for label in labels}
    close = difflib.get_close_matches(name.casefold(), by_key, n=3)
    suggestion = f"; did you mean {' or '.join(repr(by_key[key]) for key in close)}?" if close else ""
    return f"the backbone has no class {shown(name)}{suggestion}"
