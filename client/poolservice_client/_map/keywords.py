"""The keywords of map that say nothing of what comes back."""

from poolservice_client._request import PoolOptions


class MapKeywords(PoolOptions, total=False):
    """Those of pool, and how the map goes."""

    ordered: bool
    in_flight: int | None
    progress: bool
