"""The server that an attack is aimed at."""

from typing import NamedTuple


class Target(NamedTuple):
    """A running server.

    Attributes:
        address: HOST:PORT.
        metrics_url: the URL of its metrics.
        pid: its process; with several workers, their supervisor.
    """

    address: str
    metrics_url: str
    pid: int
