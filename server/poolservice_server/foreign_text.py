"""Text that a caller wrote, made safe for error messages and logs."""


def quote(text: bytes | str, limit: int = 200) -> str:
    r"""Return at most `limit` characters of `text` in printable ASCII, with all others escaped.

    A line break in a chunk's name would otherwise start a new line in the logs of caller and server, and a control
    sequence could rewrite what a terminal shows.

    >>> quote(b"te\nXt")
    'te\\nXt'
    """
    characters = text.decode("latin-1") if isinstance(text, bytes) else text
    escaped = "".join(
        character if " " <= character <= "~" else character.encode("unicode_escape").decode("ascii")
        for character in characters[:limit]
    )
    return escaped if len(characters) <= limit else f"{escaped}..."
