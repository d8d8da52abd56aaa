"""Suggestions in errors about arguments that take one of a few words."""

import difflib
from collections.abc import Mapping, Sequence

# Words of other libraries for the same thing, in lower case.
_SYNONYMS: Mapping[str, str] = {
    "channels_first": "CHW",
    "channels_last": "HWC",
    "nchw": "CHW",
    "nhwc": "HWC",
    "grayscale": "GRAY",
    "greyscale": "GRAY",
    "l": "GRAY",
    "half": "float16",
    "fp16": "float16",
    "f2": "float16",
    "vector": "features",
    "embedding": "features",
    "array": "tensor",
    "np": "numpy",
    "ndarray": "numpy",
    "pt": "torch",
    "pytorch": "torch",
    "ignore": "skip",
    "gz": "gzip",
}


def is_choice(value: object, choices: Sequence[str]) -> bool:
    """Return True if a value, of whatever type, is one of the choices."""
    return isinstance(value, str) and value in choices


def suggestion(value: object, choices: Sequence[str]) -> str:
    """Return the end of an error message that suggests the choice for a wrong value; "" if none is similar."""
    if not isinstance(value, str):
        return ""
    word = value.strip().casefold()
    by_word = {choice.casefold(): choice for choice in choices}
    similar = _SYNONYMS.get(word)
    if similar not in choices:
        similar = next((by_word[near] for near in difflib.get_close_matches(word, by_word, n=1)), None)
    return "" if similar is None else f'; did you mean "{similar}"?'
