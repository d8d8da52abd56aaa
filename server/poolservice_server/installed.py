"""Which modules are installed, without importing them."""

from importlib.util import find_spec


def is_installed(module: str) -> bool:
    """Return True if a module is installed. Only the packages around it are imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        # A package around it is missing.
        return False
