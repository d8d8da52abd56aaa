"""The warning about misspelt environment variables."""

import difflib
import os
import warnings
from collections.abc import Iterable

_PREFIX = "POOLSERVICE_"
# Settings of a server on the same machine have the same prefix, and none of their names is as similar as this.
_SIMILARITY = 0.82


def warn_of_misspelt_variables(known: Iterable[str]) -> None:
    """Warn of each variable whose name is almost that of a known one, and which has no effect therefore."""
    names = [name.removeprefix(_PREFIX) for name in known]
    for variable in os.environ:
        name = variable.removeprefix(_PREFIX)
        if name == variable or name in names:
            continue
        if similar := difflib.get_close_matches(name.upper(), names, n=1, cutoff=_SIMILARITY):
            warnings.warn(
                f"the environment variable {variable} has no effect; did you mean {_PREFIX}{similar[0]}?", stacklevel=5
            )
