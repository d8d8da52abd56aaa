"""Text for messages: lists of choices, and untrusted text without control characters."""

import unicodedata
from collections.abc import Sequence

# Control characters, invisible formatting such as the marks that reverse the direction of writing, undecodable bytes
# (as surrogates), and separators of lines and paragraphs.
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Zero-width joiner and non-joiner, which the spelling of several languages needs.
_JOINERS = "\u200c\u200d"


def join_or(choices: Sequence[str]) -> str:
    """Return a list of choices as text: "a, b or c"."""
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def join_and(parts: Sequence[str]) -> str:
    """Return a list of parts as text: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def escape(text: str) -> str:
    r"""Return text from elsewhere, such as a file's name or a server's message, as one line of visible characters.

    Control characters, line breaks and direction marks are written as \n, \x1b or \u202e; a byte of a file's name that
    is not UTF-8 is written as \xff.
    """
    if text.isprintable():
        return text
    return "".join(map(_escape_character, text))


def _escape_character(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
