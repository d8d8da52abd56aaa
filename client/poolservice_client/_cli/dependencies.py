"""Optional dependencies of the command."""

import importlib

from poolservice_client._cli.exit_errors import CommandError


def require(option: str, module: str) -> None:
    """Check that an optional package is installed, before any work is done.

    The message names the package itself: that works both for a clone of this repository and for an installed wheel,
    while the name of the extra differs ('.[figure]' and 'poolservice[figure]').

    Args:
        option: the option that needs the package.
        module: a module of the package, such as "matplotlib.figure".

    Raises:
        CommandError: the package is not installed.
    """
    try:
        importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise CommandError(f"{option} needs {package}; install it with: pip install {package}") from None
