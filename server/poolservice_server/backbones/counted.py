"""Numbers of things in sentences."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which becomes a plural unless the number is 1.

    >>> counted(1, "label"), counted(2, "class")
    ('1 label', '2 classes')
    """
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
