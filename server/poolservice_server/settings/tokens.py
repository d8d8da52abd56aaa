"""Bearer tokens: reads the file that lists them, keeps only their hashes, and looks up the token of a call."""

import hashlib
import hmac
import re
from collections.abc import Iterator
from pathlib import Path

from poolservice_server.settings.errors import SettingsError
from poolservice_server.settings.read_files import read_file

# A token's hash in the file, as `printf %s TOKEN | sha256sum` prints it after the prefix.
_HASH_PREFIX = "sha256:"
_HASH = re.compile(r"[0-9a-fA-F]{64}")
_NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)

#: Shorter tokens can be guessed.
SAFE_TOKEN_CHARACTERS = 16

# Tokens are found by this many bytes of their hash, and then compared in constant time.
_INDEX_BYTES = 4


class Tokens:
    """The accepted tokens. Only their SHA-256 hashes are kept in memory.

    The time of a look-up says nothing about the accepted tokens. It depends on the first bytes of the hash of the token
    that the caller sent, which the caller knows anyway.
    """

    def __init__(self) -> None:
        self._by_index: dict[bytes, list[tuple[bytes, str]]] = {}

    def __bool__(self) -> bool:
        """Return True if there are tokens."""
        return bool(self._by_index)

    def add(self, digest: bytes, name: str = "") -> None:
        """Accept the token with this hash.

        Args:
            digest: the SHA-256 hash of the token.
            name: the name of its owner; empty for the first hexadecimal digits of the hash.
        """
        self._by_index.setdefault(digest[:_INDEX_BYTES], []).append((digest, name or digest[:_INDEX_BYTES].hex()))

    def owner(self, token: str) -> str | None:
        """Return the name of the token's owner, or None if the token is not accepted."""
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        for accepted, name in self._by_index.get(digest[:_INDEX_BYTES], ()):
            if hmac.compare_digest(digest, accepted):
                return name
        return None


def read_tokens(path: Path, flag: str) -> Tokens:
    """Return the tokens of a file with lines of the form TOKEN [NAME] or sha256:HASH [NAME]; # starts a comment line.

    Args:
        path: the file.
        flag: the flag that named the file, for errors.

    Raises:
        SettingsError: the file cannot be read, contains no token, or has a line of another form. The message names the
            line and never has a token.
    """
    tokens = Tokens()
    for number, words in _lines(path, flag):
        where = f"line {number} of {flag} {path}"
        if len(words) > 2 or (len(words) == 2 and not _NAME.fullmatch(words[1])):
            raise SettingsError(
                f"{where} must be TOKEN NAME or sha256:HASH NAME, with a NAME of letters, digits and . _ @ -, or "
                "without NAME"
            )
        tokens.add(_digest(words[0], where), "".join(words[1:]))
    if not tokens:
        raise SettingsError(f"{flag} {path} contains no token; write one per line")
    return tokens


def short_tokens(path: Path, flag: str) -> list[int]:
    """Return the numbers of the lines whose tokens can be guessed, because they have few characters.

    The length of a token of which the file has only the hash is unknown.

    Args:
        path: the file.
        flag: the flag that named the file, for errors.

    Raises:
        SettingsError: the file cannot be read.
    """
    return [
        number
        for number, (token, *_) in _lines(path, flag)
        if not token.startswith(_HASH_PREFIX) and len(token) < SAFE_TOKEN_CHARACTERS
    ]


def _lines(path: Path, flag: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the words of each line that is neither empty nor a comment."""
    for number, line in enumerate(read_file(path, flag).decode("utf-8-sig", "surrogateescape").splitlines(), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield number, words


def _digest(word: str, where: str) -> bytes:
    if not word.startswith(_HASH_PREFIX):
        return hashlib.sha256(word.encode(errors="surrogateescape")).digest()
    digits = word.removeprefix(_HASH_PREFIX)
    if not _HASH.fullmatch(digits):
        raise SettingsError(f"{where} must have 64 hexadecimal digits after sha256:")
    return bytes.fromhex(digits)
