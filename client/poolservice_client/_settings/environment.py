"""The warning about misspelt environment variables."""

import difflib
import os
import warnings
from collections.abc import Iterable

_PREFIX = "POOLSERVICE_"
# A server's settings have the same prefix. Their names are less similar than this to those of a client.
_SIMILARITY = 0.82


def warn_of_misspelt_variables(known: Iterable[str]) -> None:
    """Warn of each variable that has no effect because its name is almost, but not exactly, a known one."""
    names = [name.removeprefix(_PREFIX) for name in known]
    for variable in os.environ:
        name = variable.removeprefix(_PREFIX)
        if name == variable or name in names:
            continue
        if similar := difflib.get_close_matches(name.upper(), names, n=1, cutoff=_SIMILARITY):
            warnings.warn(
                f"the environment variable {variable} has no effect; did you mean {_PREFIX}{similar[0]}?", stacklevel=5
            )
