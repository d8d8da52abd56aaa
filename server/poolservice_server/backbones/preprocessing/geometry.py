"""The sizes of preprocessing: what an image is resized to, and which part of that the backbone sees."""

from typing import NamedTuple

from poolservice.errors import InvalidRequest
from poolservice_server.backbones.manifest import Input, Preprocessing

#: The limit for a side of the resized image, in sides of the input. Resizing the shorter side of a long, narrow image
#: would otherwise take any time and memory, for an image of which the crop keeps hardly anything.
MAX_RESIZED = 32


class Axis(NamedTuple):
    """The columns or the rows of an image: how they are resized, and which of them the backbone sees.

    Attributes:
        length: how many the upright image has.
        resized: how many the resized image has.
        offset: the first one of the resized image that is in the input; negative if the image is padded there.
        input: how many the input has.
    """

    length: int
    resized: int
    offset: int
    input: int

    @property
    def kept(self) -> tuple[int, int]:
        """The range of the resized image that is in the input."""
        return max(self.offset, 0), min(self.offset + self.input, self.resized)

    @property
    def place(self) -> slice:
        """The range of the input that shows the image; the rest is padding."""
        return slice(self.kept[0] - self.offset, self.kept[1] - self.offset)


class Geometry(NamedTuple):
    """How an image becomes an input.

    Attributes:
        columns: from the left.
        rows: from the top.
    """

    columns: Axis
    rows: Axis


def geometry(width: int, height: int, input: Input, preprocessing: Preprocessing) -> Geometry:
    """Return the geometry of an upright image that `check_size` accepts."""
    resized_width, resized_height = _resized(width, height, input, preprocessing)
    return Geometry(
        Axis(width, resized_width, _offset(resized_width, input.width, preprocessing), input.width),
        Axis(height, resized_height, _offset(resized_height, input.height, preprocessing), input.height),
    )


def region(width: int, height: int, input: Input, preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Return the part of an upright image that the backbone sees.

    Returns:
        left, top, right and bottom in pixels of the image, beyond its edges where it is padded.
    """
    columns, rows = geometry(width, height, input, preprocessing)
    return (
        columns.offset * columns.length / columns.resized,
        rows.offset * rows.length / rows.resized,
        (columns.offset + columns.input) * columns.length / columns.resized,
        (rows.offset + rows.input) * rows.length / rows.resized,
    )


def check_size(width: int, height: int, input: Input, preprocessing: Preprocessing) -> None:
    """Check that an upright image of this size can be preprocessed.

    Raises:
        InvalidRequest: it is too elongated, or it does not have the size that a backbone without resizing takes. The
            error's `field` is image.data.
    """
    resized_width, resized_height = _resized(width, height, input, preprocessing)
    if preprocessing.resize != "none":
        resized = f"resizing for the backbone would make it {resized_width} x {resized_height}"
        if min(resized_width, resized_height) < 1:
            raise InvalidRequest(
                f"the image of {width} x {height} pixels is too elongated: {resized}; send a part of it",
                field="image.data",
            )
        limits = MAX_RESIZED * input.width, MAX_RESIZED * input.height
        if resized_width > limits[0] or resized_height > limits[1]:
            raise InvalidRequest(
                f"the image of {width} x {height} pixels is too elongated: {resized}, and the limit is {limits[0]} x "
                f"{limits[1]}, {MAX_RESIZED} times the backbone's input; send a part of it",
                field="image.data",
            )
    if preprocessing.crop == "none" and (resized_width, resized_height) != (input.width, input.height):
        after = "" if preprocessing.resize == "none" else f" and {resized_width} x {resized_height} after resizing"
        raise InvalidRequest(
            f"the image has {width} x {height} pixels{after}, and the backbone takes images of {input.width} x "
            f"{input.height} without cropping them; send an image of that {'size' if not after else 'shape'}",
            field="image.data",
        )


def _resized(width: int, height: int, input: Input, preprocessing: Preprocessing) -> tuple[int, int]:
    if preprocessing.resize == "none":
        return width, height
    size = preprocessing.size
    if size is None:
        size = (input.height, input.width)
    target_height, target_width = (size, size) if isinstance(size, int) else size
    if preprocessing.resize == "squash":
        return target_width, target_height
    # One side gets its target; the other one keeps the aspect ratio. For "shortest", the image then covers the target,
    # for "longest" it fits inside.
    portrait = width * target_height <= height * target_width
    if portrait == (preprocessing.resize == "shortest"):
        return target_width, _other_side(height, width, target_width, preprocessing)
    return _other_side(width, height, target_height, preprocessing), target_height


def _other_side(other: int, side: int, target: int, preprocessing: Preprocessing) -> int:
    """Return the length of the other side if `side` is resized to `target`."""
    if preprocessing.rounding == "floor":
        return other * target // side
    if preprocessing.rounding == "ceil":
        return -(-other * target // side)
    # The quotients of timm's ResizeKeepRatio. Python's round, which timm uses, rounds half to even.
    return round(other / (side / target))


def _offset(resized: int, cropped: int, preprocessing: Preprocessing) -> int:
    """Return where a crop begins in the resized side; negative if the side is shorter than the crop."""
    if preprocessing.crop == "none":
        return 0
    margin = resized - cropped
    if preprocessing.crop_rounding == "floor":
        # Of an odd number of padding pixels, Hugging Face puts the additional one before the image.
        return margin // 2
    # torchvision puts it behind the image.
    return round(margin / 2) if margin >= 0 else -(-margin // 2)
