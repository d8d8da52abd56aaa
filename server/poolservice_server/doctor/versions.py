"""The versions of installed packages."""

from importlib.metadata import PackageNotFoundError, version


def version_of(*names: str) -> str:
    """Return the version of the first of these packages that is installed, such as "2.13.0"."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "(of unknown version)"
