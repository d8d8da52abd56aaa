"""The metrics and labels that PromQL expressions name: what the tests of the dashboard and the alerts compare.

This reads the part of PromQL that they use: selectors, ranges, functions, binary operators, and aggregations whose
labels stand before the argument, as in `sum by (code) (...)`. It raises ValueError for anything else.
"""

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""\s+
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<name>[a-zA-Z_:][\w:]*)
    | (?P<range>\[[^\]]*\])
    | (?P<number>\d[\w.]*)
    | (?P<operator>=~|!~|!=|==|<=|>=|[-+*/%^=<>(){},])
    """,
    re.VERBOSE,
)
_OPERATORS = frozenset({"and", "or", "unless", "bool"})
_UNSUPPORTED = frozenset({"on", "ignoring", "group_left", "group_right", "without", "offset"})


@dataclass
class Selector:
    """A metric of an expression: its name, its label matchers, and the labels by which it is aggregated."""

    name: str
    matchers: list[tuple[str, str, str]] = field(default_factory=list)
    by: set[str] = field(default_factory=set)

    def labels(self) -> set[str]:
        """Return all labels that the expression expects of the metric."""
        return {label for label, _, _ in self.matchers} | self.by

    def values(self) -> list[tuple[str, str]]:
        """Return label and value of each matcher that lists values: `a="b"`, `a!="b"`, `a=~"b|c"`."""
        return [
            (label, value)
            for label, operator, text in self.matchers
            if operator in ("=", "!=") or re.fullmatch(r"[\w|]+", text)
            for value in text.split("|")
        ]


def selectors(expression: str) -> list[Selector]:
    """Return the metrics of an expression, in order.

    Raises:
        ValueError: the expression has something that this module does not read.
    """
    return _Parser(expression).expression(set())


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if not match:
                raise ValueError(f"unexpected {text[position]!r} in {text}")
            position = match.end()
            if match.lastgroup:
                self._tokens.append(match[0])
        self._next = 0

    def expression(self, by: set[str]) -> list[Selector]:
        """Read until the end or an unmatched closing parenthesis."""
        found: list[Selector] = []
        while (token := self._peek()) not in ("", ")"):
            self._next += 1
            if token == "(":
                found += self._argument(by)
            elif token in _UNSUPPORTED:
                raise ValueError(f"{token!r} is not read here: {self._text}")
            elif re.fullmatch(r"[a-zA-Z_:][\w:]*", token) and token not in _OPERATORS:
                found += self._name(token, by)
        return found

    def _name(self, name: str, by: set[str]) -> list[Selector]:
        if self._peek() == "by":
            self._next += 1
            by = self._labels()
            self._expect("(")
            return self._argument(by)
        if self._peek() == "(":
            self._next += 1
            return self._argument(by)
        return [Selector(name, self._matchers(), set(by))]

    def _argument(self, by: set[str]) -> list[Selector]:
        found = self.expression(by)
        self._expect(")")
        if self._peek() == "by":
            raise ValueError(f"the labels of an aggregation stand before its argument: {self._text}")
        return found

    def _labels(self) -> set[str]:
        self._expect("(")
        end = self._tokens.index(")", self._next)
        labels = {token for token in self._tokens[self._next : end] if token != ","}
        self._next = end + 1
        return labels

    def _matchers(self) -> list[tuple[str, str, str]]:
        if self._peek() != "{":
            return []
        end = self._tokens.index("}", self._next)
        inside = self._tokens[self._next + 1 : end]
        self._next = end + 1
        return [
            (label, operator, value[1:-1]) for label, operator, value in zip(*[iter(_without(inside))] * 3, strict=True)
        ]

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _expect(self, token: str) -> None:
        if self._peek() != token:
            raise ValueError(f"expected {token!r} instead of {self._peek()!r}: {self._text}")
        self._next += 1


def _without(tokens: list[str]) -> list[str]:
    return [token for token in tokens if token != ","]
