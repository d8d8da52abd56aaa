"""The types of the values in `backbone.toml`, with the rules of each, whose texts complete the sentence "KEY ..."."""

import math
import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, AllowInfNan, BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError

LARGEST_SIDE = 8192

#: The type of the errors that `rule` makes.
RULE = "rule"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARCHITECTURE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z0-9_][A-Za-z0-9_.]*")
_LONGEST_TEXT = 1000


def rule(text: str) -> PydanticCustomError:
    """Return the error of a table that breaks a rule, with a text that begins with the key in the table."""
    return PydanticCustomError(RULE, "{text}", {"text": text})


def architecture_name(value: str) -> str:
    """Return the name of an architecture, or raise ValueError."""
    if not _ARCHITECTURE.fullmatch(value):
        raise ValueError("must be poolservice:NAME, timm:NAME or MODULE:CALLABLE")
    return value


def file_with_ending(ending: str) -> AfterValidator:
    """Return the check that the name of a file has an ending."""

    def check(path: str) -> str:
        if not path.endswith(ending):
            raise ValueError(
                f"must be a {ending} file (poolservice-server backbone import makes a folder from other formats)"
            )
        return path

    return AfterValidator(check)


def pair_of_sides(value: object) -> object:
    """Return two sides as a tuple and None as it is, or raise ValueError."""
    if value is None:
        return None
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_side, value)):
        return tuple(value)
    raise ValueError(f"must be a list of two whole numbers from 1 to {LARGEST_SIDE}")


def side_or_pair(value: object) -> object:
    """Return a side, two sides as a tuple or None as it is, or raise ValueError."""
    if _is_side(value):
        return value
    try:
        return pair_of_sides(value)
    except ValueError:
        raise ValueError(f"must be a whole number from 1 to {LARGEST_SIDE}, or [height, width]") from None


def byte_or_bytes(value: object) -> object:
    """Return a byte, or a list of them as a tuple, or raise ValueError."""
    if _is_whole(value, 0, 255):
        return value
    if isinstance(value, list | tuple) and all(_is_whole(one, 0, 255) for one in value):
        return tuple(value)
    raise ValueError("must be a whole number from 0 to 255, or a list of them")


def is_name(value: object) -> bool:
    """Return True if a value can be the name of a backbone or of one of its outputs."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_side(value: object) -> bool:
    return _is_whole(value, 1, LARGEST_SIDE)


def _is_whole(value: object, least: int, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= largest


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError("must be 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit")
    return value


def _text(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return _line(value)


def _line(value: str) -> str:
    if len(value) > _LONGEST_TEXT or not value.isprintable():
        raise ValueError(f"must be one line of at most {_LONGEST_TEXT} printable characters")
    return value


def _inside_the_folder(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError("must be the path of a file inside the folder")
    if str(path) != value or "\\" in value or not value.isprintable() or len(value) > _LONGEST_TEXT:
        raise ValueError('must be a plain path such as "model.onnx" or "weights/head.safetensors"')
    return value


def _hexadecimal(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise ValueError("must be 64 hexadecimal digits in lower case, as sha256sum prints them")
    return value


def _argument(value: object) -> object:
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("must be true, false, a number or text")
    return value


#: The name of a backbone or of one of its outputs.
Name = Annotated[str, AfterValidator(_name)]
#: A line of text.
Line = Annotated[str, AfterValidator(_line)]
#: A line of text that is not empty.
Text = Annotated[str, AfterValidator(_text)]
#: A file in the backbone's folder.
FilePath = Annotated[str, AfterValidator(_inside_the_folder)]
Sha256 = Annotated[str, AfterValidator(_hexadecimal)]
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]
#: A height or width in pixels.
Side = Annotated[int, Strict(), Field(ge=1, le=LARGEST_SIDE)]
#: An argument of an architecture.
Argument = Annotated[bool | int | float | str, BeforeValidator(_argument)]
