"""The limit on open files. Each connection is one, and the default limit of most systems is lower than their number."""

import resource

# Files that a worker has open without any connection: libraries, event loop, logs, pipes.
_OWN_FILES = 64


def needed_files(max_connections: int) -> int:
    """Return how many files a worker may have open at once."""
    return max_connections + _OWN_FILES


def possible_files() -> int:
    """Return how many files this process can have open, once `raise_file_limit` has raised its limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return hard


def raise_file_limit(needed: int) -> bool:
    """Raise the limit on open files of this process and of those that it starts, as far as it may.

    Returns:
        True if that many files can be open now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allows(soft, needed):
        return True
    enough = allows(hard, needed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed if enough else hard, hard))
    return enough


def allows(limit: int, needed: int) -> bool:
    """Return True if a limit of the kernel is not lower than the number that is needed."""
    return limit == resource.RLIM_INFINITY or limit >= needed
